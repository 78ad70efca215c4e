"""What an importer is: the files of a public log → corank's tables and a config. `corank import` lists them all.

Importers share the checks of files, whose errors name file, column and row, and the choice of a split.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, Union, get_args, get_origin

import polars as pl
from pydantic import ConfigDict

from corank.core.errors import DataError, PluginError
from corank.core.registry import Registry, check_class
from corank.core.reports import Report
from corank.core.settings import Settings
from corank.data.tables import find_bytes_fault, find_row_fault

MOST_LATER = 0.35
"""Of all requests: where the days for validation and test hold more, they are not split by days."""
FEWEST = 500
"""Requests that validation and test hold each, or a tenth of them all if that is fewer. With a click in each, the
standard error of their AUC is .013 at most."""
OPTION_TYPES = (bool, int, float, str, date, Path)
"""Types that a field of an importer may have, each also with None."""

_RECEIVED = 60  # characters of a faulty value that an error repeats, at most
_ROW = "@row"


class Importer(Settings):
    """Turns the files of a log into tables and a config.

    Its fields are the options of `corank import NAME SOURCE OUT`, with the fields' types, defaults, aliases and
    descriptions: `full: bool = Field(False, description="All levels.")` becomes `--full`. The class's docstring is
    the command's help. `corank.import_NAME(source, out, full=True)` is the same function.

    Example:
        @IMPORTERS.register("mylog")
        class MyLog(Importer):
            \"\"\"Import my shop's log.\"\"\"

            source_help = "The folder of daily files."
            days: int = Field(7, description="Days to read.")

            def write(self, source, out, report):
                with written_whole(out) as folder:
                    ...
    """

    model_config = ConfigDict(populate_by_name=True)  # functions have fields' names, commands their aliases

    source_help: ClassVar[str] = "Where the log's files are."
    """What SOURCE is, for the command's help."""

    @abstractmethod
    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write the tables and `config.yaml` to the folder `out`, whole or not at all.

        Args:
            source: the folder or file that the user names.
            report: takes a line about each step.

        Raises DataError, which names file, column and row, if the files cannot be imported.
        """


def option_type(annotation: Any) -> tuple[Any, bool]:
    """The type of an option without None, and whether None is allowed."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return (kinds[0] if len(kinds) == 1 else annotation), True


def _check(what: str, importer: Any) -> None:
    """Raise PluginError unless a registered part is a complete importer class with a help text."""
    check_class(what, importer, Importer)
    if not importer.__doc__ or importer.__doc__ == Importer.__doc__:
        raise PluginError(f"{what} lacks a docstring, which is the help of its command")
    for name, field in importer.model_fields.items():
        if option_type(field.annotation)[0] not in OPTION_TYPES:
            known = ", ".join(kind.__name__ for kind in OPTION_TYPES)
            raise PluginError(f"{what}: the field '{name}' must be of a type of {known}, or that or None")


IMPORTERS = Registry[type[Importer]]("importer", "corank.importers", "corank.datasets", _check)
"""Importers by the name of their command."""


def read_schema(path: Path, frame: pl.LazyFrame) -> pl.Schema:
    """Read the columns of a file. Raises DataError if it cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; the import needs it")
    try:
        return frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable([path], error) from None


def unreadable(paths: Sequence[Path], error: Exception) -> DataError:
    """Make the error for files that cannot be read, with the line of a CSV file, if one explains it."""
    texts = [str(path) for path in paths if not {".csv", ".tsv"}.isdisjoint(path.suffixes)]
    fault = next(filter(None, map(find_bytes_fault, texts)), None) or find_row_fault(texts, str(error))
    return DataError(fault or f"{paths[0]}: cannot be read: {str(error).splitlines()[0]}")


def scan_texts(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """Open a CSV file, every column as text. Raises DataError if one of `columns` is missing."""
    frame = pl.scan_csv(path, infer_schema=False)
    types = read_schema(path, frame)
    if missing := [name for name in columns if name not in types]:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected {', '.join(columns)}")
    return frame


def refuse_rows(path: Path, frame: pl.LazyFrame, faults: Iterable[tuple[str, pl.Expr, str]]) -> int:
    """Raise DataError for the first row of a file that breaks a rule.

    Args:
        path: the file, for the message.
        frame: its rows, in order.
        faults: column, whether a row breaks the rule, and what was expected instead.

    Returns:
        The rows of the file.
    """
    rules = list(faults)
    first = [
        pl.col(_ROW).filter(bad.fill_null(False)).min().alias(f"{n}") for n, (_, bad, _) in enumerate(rules)
    ]
    try:
        *rows, height = frame.with_row_index(_ROW).select(*first, pl.len()).collect(engine="streaming").row(0)
        for (column, _, expected), row in zip(rules, rows, strict=True):
            if row is not None:
                value = frame.select(column).slice(row, 1).collect().item()
                value = value.to_list() if isinstance(value, pl.Series) else value
                shown = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
                shown = shown if len(shown) <= _RECEIVED else f"{shown[:_RECEIVED]}…"
                raise DataError(
                    f"{path}: column {column}, row {row + 1}: expected {expected}; received {shown}"
                )
    except pl.exceptions.PolarsError as error:
        raise unreadable([path], error) from None
    return int(height)


class ImportedSplit(NamedTuple):
    """The `data.split` of an imported log: when validation and test begin, or the shares of its requests."""

    valid: datetime | date | float
    test: datetime | date | float

    def __str__(self) -> str:
        """As YAML."""
        valid, test = (end if isinstance(end, float) else end.isoformat() for end in self)
        return f"{{valid: {valid}, test: {test}}}"


TENTHS = ImportedSplit(0.1, 0.1)
"""The last tenth of the requests is the test, the tenth before validates: where the days are few."""


def split_by_days(days: Sequence[tuple[date, int]]) -> ImportedSplit:
    """Split at two midnights, so that the last days are the test, and those before validate.

    Each is one day, or as many as hold FEWEST requests. Where they hold much of the log, it is split by TENTHS.

    Args:
        days: those that have requests, ascending, and how many.
    """
    total = sum(count for _, count in days)
    begins, held, later = list[date](), 0, 0
    for day, count in reversed(days):
        held, later = held + count, later + count
        if held >= min(FEWEST, total / 10):
            begins, held = [day, *begins], 0
        if len(begins) == 2:
            break
    return ImportedSplit(*begins) if later <= MOST_LATER * total else TENTHS


def training_rows(log: pl.LazyFrame, time: str, split: ImportedSplit) -> pl.LazyFrame:
    """Keep the rows before validation begins."""
    if isinstance(split.valid, float) and isinstance(split.test, float):
        count = log.select(pl.len()).collect().item()
        return log.sort(time, maintain_order=True).head(int(count * (1 - split.valid - split.test)))
    return log.filter(pl.col(time).cast(pl.Datetime("us")) < pl.lit(split.valid).cast(pl.Datetime("us")))
