"""Columns of tables, measured range by range, and encoders fitted to what was measured of training rows.

What has a row for each distinct value is spread over files by a hash of the value, and merged one hash partition at a
time: no task holds all values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.types import Hashes
from corank.data.packing.earlier_pack import PackStart
from corank.data.packing.workspace import write_beside
from corank.data.tables import RowRange, Table, cut_table
from corank.engine.base import Engine
from corank.features.encoding import Encoder, hash_values
from corank.features.feature_kind import FeatureKind
from corank.features.log_schema import ROW
from corank.features.schema import Schema
from corank.features.training_values import (
    ColumnMeasure,
    Measurement,
    NotMeasured,
    TrainingValues,
)

PARTITION = 2**22
"""Rows of a table for each hash partition of its values."""


@dataclass(frozen=True)
class MeasuredColumn:
    """A column of a table, or what an expression makes of one."""

    table: Table
    value: pl.Expr
    where: pl.Expr | None = None
    """Which rows count; all if None."""
    time: pl.Expr | None = None
    """When the rows were, ms UTC; None of a table without times."""


Wanted = tuple[MeasuredColumn, Measurement]


@dataclass(frozen=True)
class MeasureRange:
    """Measures columns of one table in a range of its rows."""

    table: Table
    wanted: Sequence[Wanted]
    """Columns of the table, and what is measured of each."""
    partitions: int
    stem: Path
    """Prefix of the paths of the files into which values are spread."""

    def __call__(self, rows: RowRange) -> list["pl.DataFrame | SpreadPart"]:
        """Measure. Returns a part of each measurement."""
        columns = [column.value.alias(f"value {n}") for n, (column, _) in enumerate(self.wanted)]
        filters = {str(c.where): c.where for c, _ in self.wanted if c.where is not None}
        columns += [where.alias(f"where {name}") for name, where in filters.items()]
        times = {str(c.time): c.time for c, m in self.wanted if m.measure.timed and c.time is not None}
        columns += [time.alias(f"time {name}") for name, time in times.items()]
        parts: list[list[pl.DataFrame]] = [[] for _ in self.wanted]
        try:
            for batch in rows.read(self.table, columns):
                chosen = {None: batch} | {n: batch.filter(pl.col(f"where {n}")) for n in filters}
                for n, (column, measurement) in enumerate(self.wanted):
                    some = chosen[None if column.where is None else str(column.where)]
                    timed = measurement.measure.timed and column.time is not None
                    of_times = some[f"time {column.time}"].to_numpy() if timed else None
                    parts[n].append(measurement.part(some[f"value {n}"], some[ROW].to_numpy(), of_times))
        except pl.exceptions.PolarsError as error:
            raise self.table.unreadable(error) from None
        return [self._merge(rows, n, some) for n, some in enumerate(parts)]

    def _merge(self, rows: RowRange, n: int, parts: list[pl.DataFrame]) -> "pl.DataFrame | SpreadPart":
        """Merge the parts of batches."""
        measure = self.wanted[n][1].measure
        merged = parts[0] if len(parts) == 1 else measure.merge(pl.concat(parts))
        if not measure.by_value:
            return merged
        path = self.stem.with_name(f"{self.stem.name}.{n}.{rows.first:015d}.arrow")
        return SpreadPart.write(path, merged, self.partitions)


@dataclass(frozen=True)
class SpreadPart:
    """Rows in a file, by a hash of their `value`."""

    path: Path
    starts: tuple[int, ...]
    """Where each partition begins, and the end."""

    @classmethod
    def write(cls, path: Path, rows: pl.DataFrame, partitions: int) -> "SpreadPart":
        """Write rows into a file, one partition after another."""
        starts = np.array([0, len(rows)])
        if partitions > 1:
            partition = _hash(rows["value"]) % np.uint64(partitions)
            order = np.argsort(partition, kind="stable")
            starts = np.searchsorted(partition[order], np.arange(partitions + 1))
            rows = rows[order]
        with write_beside(path) as unfinished:
            write_frame(unfinished, rows)
        return cls(path, tuple(starts.tolist()))

    def read(self, partition: int) -> pl.DataFrame:
        """Map the rows of one partition into memory."""
        first, end = self.starts[partition : partition + 2]
        return read_frame(self.path)[first:end]


def _hash(values: pl.Series) -> Hashes:
    """Hash values of any type, equal ones alike: (N,)."""
    if values.dtype.is_temporal():
        values = values.to_physical()
    elif values.dtype.is_float():  # some may be no whole numbers
        values = (values.cast(pl.Float64) + 0.0).reinterpret(signed=True)
    elif not (values.dtype.is_integer() or values.dtype in (pl.Boolean, pl.String, pl.Null)):
        values = values.cast(pl.String)
    return hash_values(values, values.name)


def _merge_partition(measure: ColumnMeasure, parts: Sequence[SpreadPart], stem: Path, partition: int) -> Path:
    """Merge what was spread of a partition, the task. Returns the file of the result."""
    merged = measure.finish(measure.merge(pl.concat(part.read(partition) for part in parts)))
    path = stem.with_name(f"{stem.name}.{partition:05d}.arrow")
    with write_beside(path) as unfinished:
        write_frame(unfinished, merged)
    return path


def measure_columns(wanted: Sequence[Wanted], spill: Path, engine: Engine) -> list[pl.DataFrame]:
    """Measure columns, those of one table in one pass over it.

    Args:
        wanted: columns, and what is measured of each.
        spill: a folder for files, which must not exist.
        engine: runs the tasks.

    Returns:
        What was measured, in the order of `wanted`.

    Raises:
        DataError: a table cannot be read.
    """
    spill.mkdir(exist_ok=True)
    results: dict[int, pl.DataFrame] = {}
    for name in dict.fromkeys(column.table.name for column, _ in wanted):
        numbers = [n for n, (column, _) in enumerate(wanted) if column.table.name == name]
        table, ranges = wanted[numbers[0]][0].table, cut_table(wanted[numbers[0]][0].table)
        measured = [wanted[n] for n in numbers]
        partitions = -(-max(ranges[-1].first + ranges[-1].rows, 1) // PARTITION)
        function = MeasureRange(table, measured, partitions, spill / name)
        parts = engine.run(function, ranges)
        for n, of_column in zip(numbers, zip(*parts, strict=True), strict=True):
            results[n] = _merge(wanted[n][1].measure, of_column, spill / f"{name}.merged.{n}", engine)
    return [results[n] for n in range(len(wanted))]


def _merge(
    measure: ColumnMeasure, parts: Sequence[pl.DataFrame | SpreadPart], stem: Path, engine: Engine
) -> pl.DataFrame:
    frames = [part for part in parts if isinstance(part, pl.DataFrame)]
    if frames:
        return measure.finish(measure.merge(pl.concat(frames)))
    spread = [part for part in parts if isinstance(part, SpreadPart)]
    partitions = range(len(spread[0].starts) - 1)
    merged = engine.run(partial(_merge_partition, measure, spread, stem), partitions)
    for part in spread:
        part.path.unlink()
    return pl.concat(read_frame(path) for path in merged)


Fitted = tuple[dict[str, Encoder], dict[str, pl.DataFrame]]
"""The encoders of features that learn one, in the order of the features; and by feature with a vocabulary the counts of
its values, for later packings."""


def fit_features(
    features: Mapping[str, tuple[FeatureKind, MeasuredColumn]],
    spill: Path,
    engine: Engine,
    start: PackStart,
    schema: Schema,
    until: int,
) -> Fitted:
    """Fit features to what is measured of their columns, in as few passes over the tables as they need.

    Args:
        features: by name, with the column of its training values.
        spill: a folder for files, which is made.
        engine: runs the tasks.
        start: has the state of an earlier packing, for features that are the same.
        schema: all features.
        until: when training ends, ms UTC.

    Raises:
        DataError: for values that a feature's kind cannot encode; it names the feature.
    """
    measured: dict[str, dict[Measurement, pl.DataFrame]] = {name: {} for name in features}
    earlier = start.earlier
    known = {} if earlier is None else {n: earlier.tally(n) for n in features if n in start.carried}
    frozen = {} if earlier is None else earlier.frozen(schema)
    fitted: dict[str, Encoder | None] = {n: frozen[n] for n in features if n in frozen}
    tallies: dict[str, pl.DataFrame] = {}
    spill.mkdir(exist_ok=True)
    for turn in count():
        if len(fitted) == len(features):
            break
        missing: dict[str, Measurement] = {}
        for name, (feature, column) in features.items():
            if name not in fitted:
                adds = column.time is not None
                values = TrainingValues(name, measured[name], None, until, adds, known.get(name), tallies)
                try:
                    fitted[name] = feature.fit(values)
                except NotMeasured as needed:
                    missing[name] = needed.missing
        wanted = [(features[name][1], measurement) for name, measurement in missing.items()]
        results = measure_columns(wanted, spill / str(turn), engine)
        for (name, measurement), result in zip(missing.items(), results, strict=True):
            measured[name][measurement] = result
    encoders = {name: encoder for name in features if (encoder := fitted[name]) is not None}
    return encoders, tallies
