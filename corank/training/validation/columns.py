"""The columns of a config's tables, file by file, compared with those that a run was packed from."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.data.dataset import PackedDataset
from corank.data.input_versions import list_inputs, name_columns
from corank.data.source_files import find_source_files
from corank.data.tables import Table
from corank.features.log_schema import ListLog
from corank.training.config import Config
from corank.training.validation.figure import ValidationFigure, Verdict

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

    def figures(self) -> list[ValidationFigure]:
        """A figure for each column that differs, of the first file in which it does. Raises DataError."""
        figures: dict[str, ValidationFigure] = {}
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

    def _differences(self, table: Table, first: Table, file: str) -> Iterator[ValidationFigure]:
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

    def _unfit(self, table: Table, file: str) -> Iterator[ValidationFigure]:
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

    def _figure(self, table: Table, column: str, before: str, now: str, reason: str) -> ValidationFigure:
        verdict: Verdict = "broken" if self.config.validation.columns else "off"
        text = f"data.{table.name}: column '{column}': {reason}"
        return ValidationFigure("columns", f"{table.name}.{column}", before, now, None, verdict, text)
