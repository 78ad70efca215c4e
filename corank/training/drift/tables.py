"""The tables of new rows as they are: columns compared with those of a run, values that no packing takes, counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from corank.batches.sampling import SplitCounts
from corank.core.errors import DataError
from corank.core.time import FOREVER
from corank.data.column_sources import feature_columns
from corank.data.log_rows import log_splits
from corank.data.log_summary import log_checks, require_columns
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import list_inputs, name_columns
from corank.data.request_columns import Source
from corank.data.tables import Table, find_source_files
from corank.data.validate import find_faults, naming_rows, null_checks
from corank.features.log_schema import TIME, ListLog
from corank.training.checks.findings import Finding
from corank.training.checks.log_profile import count_splits
from corank.training.checks.split_rows import SPLIT, SplitRows
from corank.training.config.config import Config
from corank.training.drift.figure import DriftFigure, Verdict

HEAD = 100
"""Values of a file that are encoded to see whether its column is of the run's type."""


@dataclass(frozen=True)
class ColumnComparison:
    """The columns of a config's tables that its features and the run's read alike."""

    config: Config
    base: Path
    packed: PackedDataset
    features: list[str]
    """Those that both have, of columns."""

    def figures(self) -> list[DriftFigure]:
        """A figure for each column that differs, of the first file in which it does. Raises DataError."""
        figures: dict[str, DriftFigure] = {}
        for key, source in list_inputs(self.config.data, {}).items():
            table = key.removeprefix("data.")
            first: Table | None = None
            for file in find_source_files(source, self.base) if table != "truth" else []:
                read = Table.scan(table, [file.path], self.base)
                for figure in self._differences(read, first or read, file.path.rpartition("/")[2]):
                    figures.setdefault(figure.name, figure)
                first = first or read
        return list(figures.values())

    @cached_property
    def _named(self) -> set[str]:
        """The columns that both configs may read."""
        now = name_columns(self.config.data, self.config.declared.features)
        return now & name_columns(self.packed.data, self.packed.schema.features)

    @property
    def _lists(self) -> list[str]:
        """The columns of the log's files that list a value for each candidate."""
        log = self.config.data.log
        return [log.list, *log.along] if isinstance(log, ListLog) else []

    def _differences(self, table: Table, first: Table, file: str) -> Iterator[DriftFigure]:
        columns = self.packed.manifest.columns.get(f"data.{table.name}")
        if columns is not None:
            recorded = set(columns)
            for column in sorted((recorded & self._named) - table.types.keys()):
                reason = f"{file} lacks it, and the run was trained on it; write it again"
                yield self._figure(table, column, "there", "missing", reason)
            for column in sorted((self._named & table.types.keys()) - recorded):
                reason = (
                    f"{file} has it, the run's table had not; rename it, or pack and train without the run"
                )
                yield self._figure(table, column, "missing", "there", reason)
        for column in sorted(self._named & table.types.keys() & first.types.keys()):
            was, now = first.types[column], table.types[column]
            if was != now:
                reason = f"{file} has {now} where the first file has {was}; write all files with one type"
                yield self._figure(table, column, str(was), str(now), reason)
        yield from self._unfit(table, file)

    def _unfit(self, table: Table, file: str) -> Iterator[DriftFigure]:
        """Columns whose first values the run's encoders cannot take."""
        schema, encoders = self.packed.schema, self.packed.encoders
        for name in self.features:
            column = schema.column(name)
            if self.packed.manifest.sources[name] != table.name or column not in table.own(table.types):
                continue
            head = table.collect(table.frame.select(pl.col(column).drop_nulls().head(HEAD)))[column]
            if table.name == "log" and column in self._lists:
                head = head.explode().drop_nulls()
            if head.dtype.is_float():
                head = head.filter(head.is_finite())  # values are judged of new rows alone
            try:
                encoders.encode(name, head)
            except DataError as error:
                kind = schema.columns()[name].dtype(encoders.fitted.get(schema.table_of(name)))
                reason = f"{file}: {error}; write it as the run's table had it"
                yield self._figure(table, column, str(kind), str(table.types[column]), reason)

    def _figure(self, table: Table, column: str, before: str, now: str, reason: str) -> DriftFigure:
        verdict: Verdict = "broken" if self.config.drift.columns else "off"
        return DriftFigure("columns", f"{table.name}.{column}", before, now, None, verdict).found(reason)


def unfit_values(reason: str) -> DriftFigure:
    """Make the figure of values that cannot be packed; the reason names key, column, value and row."""
    where, _, what = reason.partition(": ")
    finding = Finding("error", where, what) if what else Finding("error", "data", reason)
    return DriftFigure("values", "tables", "fit", "unfit", None, "broken", finding)


def check_new_values(
    config: Config, log: Table, sources: Mapping[str, Source], begin: int
) -> Iterator[DriftFigure]:
    """Yield a figure for each rule that the new training rows of the log break; of each the first row is named.

    Args:
        config: the config.
        log: its log.
        sources: feature → the table that its column is read from.
        begin: when the new rows begin, ms UTC.
    """
    data = config.data
    try:
        require_columns(log, data)
        new = log.since(data.time, begin) & log_splits(log, data)["train"]
        rows = log.keep(lambda frame: frame.filter(new))
        columns = feature_columns(config.declared, dict(sources), "log")
        timeless = naming_rows(null_checks([data.time]), [*data.request, data.item])  # of no period
        yield from map(unfit_values, find_faults(log, timeless).values())
        yield from map(unfit_values, find_faults(rows, log_checks(rows, data, columns)).values())
    except DataError as error:
        yield unfit_values(str(error))


def count_new_rows(config: Config, log: Table, begin: int) -> tuple[SplitCounts, int]:
    """Count the rows of a log that train from a moment on. Raises DataError.

    Returns also when they end, ms UTC: when the config's training ends, or after the last row if it has no end.
    """
    data, until = config.data, config.data.training_end()
    later = log.keep(lambda frame: frame.filter(log.since(data.time, begin)))
    last = later.collect(later.frame.select(later.moment(data.time).max())).item()
    rows = SplitRows.of(later, data, config.declared, {}, begin if last is None else int(last))
    new = rows.frame.filter(pl.col(SPLIT) == "train", pl.col(TIME) >= begin)
    if until == FOREVER:
        until = 1 + max(begin, rows.collect(new.select(pl.col(TIME).max())).item() or begin)
    return count_splits(replace(rows, frame=new))["train"], until
