"""The log of served requests and the exposures that are joined to it, as rows of polars."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import polars as pl

from corank.analysis.score_comparison import collect_rows, is_label, read_label
from corank.core.errors import DataError
from corank_serve.log.log_format import EXPLORED, REQUEST, SERVED, X_REQUEST_ID, LogColumns
from corank_serve.log.request_log import describe_open_files

MODEL = "model_version"
USER, TIME, ITEM = "user", "time", "item"
"""Names of the log's own columns here, whatever a model calls them."""
DRAWN = "drawn"


def served_score(stage: str) -> str:
    """The column of a stage's scores."""
    return f"score_{stage}"


@dataclass(frozen=True)
class ServedLog:
    """The rows of the log of a service, or of one version in it."""

    rows: pl.LazyFrame
    """`served_id x_request_id model_version user time item`, `score_STAGE`, whether it is its request's `first`, and
    whether the page was `drawn`."""
    stages: tuple[str, ...]
    """Those of all versions in the log, in the order of the first file."""
    item: str
    """The log's name of the item."""
    source: Path

    @classmethod
    def read(cls, source: Path, since: int | None, until: int | None) -> Self:
        """Read a file of the log, or all of a folder.

        Args:
            source: a file `served-*.parquet`, or the folder of such files.
            since: the first moment that counts, ms UTC; None for all.
            until: the first one that does not count.

        Raises DataError if there are none, or one is damaged or of an earlier release.
        """
        files = [source] if source.is_file() else sorted(source.glob("served-*.parquet"))
        if not files:
            nothing = f"{source}: no served requests here; `corank serve --log {source}` writes them"
            raise DataError(describe_open_files(source) or nothing)
        columns = [LogColumns.read(file) for file in files]
        stages = dict.fromkeys(stage for one in columns for stage in one.stages)
        parts = [_scan(file, one, tuple(stages)) for file, one in zip(files, columns, strict=True)]
        rows = pl.concat(parts, how="vertical_relaxed")
        if since is not None:
            rows = rows.filter(pl.col(TIME) >= pl.lit(since).cast(pl.Datetime("ms")))
        if until is not None:
            rows = rows.filter(pl.col(TIME) < pl.lit(until).cast(pl.Datetime("ms")))
        return cls(rows, tuple(stages), columns[0].item, source)

    def requests(self) -> pl.DataFrame:
        """One row a request, without its candidates. Raises DataError."""
        wanted = self.rows.filter("first").select(SERVED, X_REQUEST_ID, MODEL, USER, TIME, DRAWN)
        return collect_rows(wanted, self.source).sort(TIME, SERVED)

    def of_version(self, version: str) -> Self:
        """The rows of one version."""
        return replace(self, rows=self.rows.filter(pl.col(MODEL) == version))


def _scan(file: Path, columns: LogColumns, stages: Sequence[str]) -> pl.LazyFrame:
    schema = pl.read_parquet_schema(file)
    names = map(served_score, stages)
    scores = [pl.col(name) if name in schema else pl.lit(None, pl.Float64).alias(name) for name in names]
    none = pl.lit(None, pl.String).alias(X_REQUEST_ID)
    return pl.scan_parquet(file).select(
        pl.col(SERVED, MODEL),
        pl.col(X_REQUEST_ID) if X_REQUEST_ID in schema else none,
        # a request without a user is one of its own
        pl.coalesce(pl.col(columns.user).cast(pl.String), SERVED).alias(USER),
        pl.col(columns.time).dt.replace_time_zone(None).cast(pl.Datetime("ms")).alias(TIME),
        pl.col(columns.item).alias(ITEM),
        pl.col(REQUEST).is_not_null().alias("first"),
        (pl.col(EXPLORED).is_not_null() if EXPLORED in schema else pl.lit(False)).alias(DRAWN),
        *scores,
    )


@dataclass(frozen=True)
class Exposures:
    """Items that were shown, a row each, with their labels."""

    rows: pl.DataFrame
    """`served_id item`, and a column a label: 1, 0, or null if it is not known."""
    labels: tuple[str, ...]

    @classmethod
    def read(cls, files: Sequence[Path], labels: Sequence[str], item: str) -> Self:
        """Read tables of exposures, and of clicks: rows of one item of one request are one exposure.

        Args:
            files: Parquet, or CSV by its ending; each has `served_id` and the item.
            labels: the columns of labels; all of 0, 1 and null unless given. Where one file lacks a label that others
                have, such as exposures next to a file of clicks, its items count as 0 unless another file says 1.
            item: the column of the item.

        Raises DataError.
        """
        tables = [_read_table(file, item) for file in files]
        detected = dict.fromkeys(name for one in tables for name in one.columns if is_label(one[name]))
        names = tuple(labels or detected)
        if not names:
            raise DataError(f"{files[0]}: no column of 0, 1 and null is a label; name one by --label")
        for name in names:
            if not any(name in one.columns for one in tables):
                raise DataError(f"--label: no table of exposures has a column '{name}'")
        parts = [_select(file, one, names) for file, one in zip(files, tables, strict=True)]
        kinds = dict.fromkeys(one.schema[ITEM] for one in parts)
        if len(kinds) > 1:
            raise DataError(f"--exposures: '{item}' is {' and '.join(map(str, kinds))}; write all alike")
        return cls(
            pl.concat(parts).group_by(SERVED, ITEM, maintain_order=True).agg(pl.col(names).max()), names
        )

    def join(self, log: ServedLog) -> pl.DataFrame:
        """The log's rows of what was shown, with labels. Raises DataError if items are of another type."""
        kinds = log.rows.collect_schema()[ITEM], self.rows.schema[ITEM]
        if (kinds[0] == pl.String) != (kinds[1] == pl.String):
            raise DataError(f"--exposures: the item is {kinds[1]}, and {kinds[0]} in the log")
        exposed = self.rows.lazy().with_columns(pl.col(ITEM).cast(kinds[0]))
        joined = log.rows.join(exposed, on=[SERVED, ITEM], how="inner")
        return collect_rows(joined, log.source).sort(TIME, SERVED, ITEM)


def _read_table(file: Path, item: str) -> pl.DataFrame:
    table = collect_rows(pl.scan_csv(file) if file.suffix == ".csv" else pl.scan_parquet(file), file)
    absent = [name for name in (SERVED, item) if name not in table.columns]
    if absent:
        raise DataError(
            f"{file}: no column '{absent[0]}'; an exposure names the item, and the `served_id` of its answer"
        )
    return table.rename({item: ITEM})


def _select(file: Path, table: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """Keys and labels of a table; 0 where the table lacks a label. Raises DataError for another value."""
    known = [read_label(table[name], f"{file}: label") for name in labels if name in table.columns]
    lacking = [pl.lit(0, pl.Int8).alias(name) for name in labels if name not in table.columns]
    keys = table.select(pl.col(SERVED).cast(pl.String), ITEM).with_columns(*known, *lacking)
    return keys.select(SERVED, ITEM, *labels)
