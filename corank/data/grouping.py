"""Candidates, a row each, brought together by request: gathered into files, put in order, checked."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from corank.core.errors import DataError
from corank.core.types import Longs
from corank.data.tables import Table
from corank.data.validate import Source
from corank.features.log_schema import DataSettings, Score
from corank.features.schema import Schema

LAST_POSITION = 127
"""Positions behind it share its term."""


def columns(log: Table, data: DataSettings, schema: Schema, found: dict[str, Source]) -> list[pl.Expr]:
    """What packing needs of a row of the log; the names of what is no feature's column begin with @."""
    exprs = [
        *keys(log, data),
        log.key(data.user).alias("@user"),
        log.moment(data.time).alias("@time"),
        *(pl.col(label.column).cast(pl.Int8).alias(f"@label {n}") for n, label in data.labels.items()),
    ]
    if data.level is not None:
        level = pl.col(data.level).cast(pl.String)
        codes = range(len(data.levels))
        exprs.append(level.replace_strict(data.levels, codes, return_dtype=pl.UInt8).alias("@level"))
    if data.weight is not None:
        exprs.append(pl.col(data.weight).cast(pl.Float32).alias("@weight"))
    if data.position is not None:
        position = pl.col(data.position).cast(pl.Float64).clip(0, LAST_POSITION)
        exprs.append(position.cast(pl.Int16).alias("@position"))
    exprs += [pl.col(c).cast(pl.Float32).alias(f"@value {c}") for c in data.columns if c in log.types]
    exprs += [_logit(score).alias(f"@score {name}") for name, score in data.scores.items()]
    features = dict.fromkeys(schema.column(name) for name, source in found.items() if source == "log")
    return [*exprs, *(_plain(log, column) for column in features)]


def _logit(score: Score) -> pl.Expr:
    value = pl.col(score.column).cast(pl.Float32)
    if score.scale == "logit":
        return value
    # as far from 0 and 1 as a float can tell from 1
    p = value.clip(2.0**-24, 1 - 2.0**-24)
    return (p / (1 - p)).log()


def keys(table: Table, data: DataSettings) -> list[pl.Expr]:
    """Request and item of a row of the log or the truth."""
    request = [table.key(column).alias(name) for column, name in request_columns(data).items()]
    return [*request, table.key(data.item).alias("@item")]


def request_columns(data: DataSettings) -> dict[str, str]:
    """The request key's columns, and what they are called among the rows."""
    return {column: f"@request {n}" for n, column in enumerate(data.request)}


def constant(data: DataSettings, schema: Schema, found: dict[str, Source]) -> dict[str, str]:
    """Columns that must not change within a request: the name among the rows, and the log's own."""
    query = [schema.column(n) for n, s in found.items() if s == "log" and schema.placement(n) == "query"]
    return {"@user": data.user, "@time": data.time} | {column: column for column in query}


def _plain(table: Table, column: str) -> pl.Expr:
    kind = table.types[column]
    return pl.col(column).cast(pl.String) if isinstance(kind, pl.Categorical | pl.Enum) else pl.col(column)


def gather(
    batches: Iterable[pl.DataFrame], request: Iterable[str], partitions: int, folder: Path
) -> list[Path]:
    """Spread rows over Arrow files by a hash of their request; `@row` counts them in their order.

    Returns the partitions' files. Memory is that of a batch.
    """
    folder.mkdir(parents=True)
    paths = [folder / f"{n:05d}.arrow" for n in range(partitions)]
    part = (pl.struct(request).hash(seed=0) % partitions).cast(pl.Int32).alias("@part")
    rows = 0
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchFileWriter] = []
        for batch in batches:
            numbered = batch.with_columns(part, pl.int_range(rows, rows + len(batch)).alias("@row"))
            rows += len(batch)
            if not writers:
                kinds = numbered.drop("@part").head(0).to_arrow().schema
                files = [stack.enter_context(path.open("wb")) for path in paths]
                writers = [stack.enter_context(pa.ipc.new_file(file, kinds)) for file in files]
            for (n,), chunk in numbered.partition_by("@part", as_dict=True, include_key=False).items():
                writers[n].write_table(chunk.to_arrow())
    return paths


@dataclass(frozen=True)
class Requests:
    """Whole requests in the order of time; candidates of each in the order of the log."""

    rows: pl.DataFrame
    """A candidate each: (C,)."""
    start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    dropped: int
    """Exact duplicates of a candidate."""

    @classmethod
    def of(cls, rows: pl.DataFrame, data: DataSettings, fixed: dict[str, str]) -> Self:
        """Order and check a partition's rows, drop exact duplicates.

        Raises DataError for a request in which one of the `fixed` columns changes, or one that holds a candidate
        twice with different values.
        """
        request = request_columns(data)
        first = rows.group_by(list(request.values())).agg(
            pl.col("@time").min().alias("@begin"), pl.col("@row").min().alias("@first")
        )
        rows = rows.join(first, on=list(request.values())).sort("@begin", "@first", "@row").drop("@begin")
        names = {name: column for column, name in request.items()} | {"@item": data.item, "@time": data.time}
        _refuse_changes(
            rows, ["@first"], fixed, names, "within the request; it must be the same for all its candidates"
        )
        copies = rows.filter(rows.select("@first", "@item").is_duplicated())
        if len(copies):
            copies = copies.sort("@first", "@item", "@row")
            varying = {c: _spelt(c, data) for c in copies.columns if c not in ("@row", "@first")}
            _refuse_changes(
                copies, ["@first", "@item"], varying, names, "between two rows of one candidate; keep one"
            )
            before = len(rows)
            rows = rows.unique(["@first", "@item"], keep="first", maintain_order=True)
            dropped = before - len(rows)
        else:
            dropped = 0
        begins = np.flatnonzero(np.diff(rows["@first"].to_numpy(), prepend=-1))
        return cls(rows, np.append(begins, len(rows)), dropped)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def heads(self) -> pl.DataFrame:
        """The first candidate of each: (R,)."""
        return self.rows[self.start[:-1]]


def _spelt(name: str, data: DataSettings) -> str:
    """The log's column of a name among the rows."""
    known = {"@user": data.user, "@level": data.level, "@weight": data.weight, "@position": data.position}
    known |= {f"@value {column}": column for column in data.columns}
    known |= {f"@label {label}": settings.column for label, settings in data.labels.items()}
    known |= {f"@score {name}": score.column for name, score in data.scores.items()}
    return known.get(name) or name


def _refuse_changes(
    rows: pl.DataFrame, within: list[str], columns: dict[str, str], names: dict[str, str], rule: str
) -> None:
    """Raise DataError where a column differs from the row before of the same `within`; rows are sorted by it."""
    same = pl.all_horizontal(pl.col(key) == pl.col(key).shift(1) for key in within)
    changes = [(same & pl.col(c).ne_missing(pl.col(c).shift(1))).fill_null(False).alias(c) for c in columns]
    changed = rows.select(changes)
    for name, column in columns.items():
        place = changed[name].arg_max() if changed[name].any() else None
        if place is not None:
            where = [
                f"{names[n]}={rows[n][place]!r}" for n in names if n.startswith("@request") or n in within
            ]
            raise DataError(
                f"data.log: request {', '.join(where)}: column '{column}' changes from {rows[name][place - 1]!r} to "
                f"{rows[name][place]!r} {rule}"
            )
