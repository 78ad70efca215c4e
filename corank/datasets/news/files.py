"""Shared parts of importers of news logs: checks that name file, row and column, and splits."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from string import Template

import polars as pl

from corank.core.errors import DataError
from corank.datasets.schedule import TENTHS, ImportedSplit

LARGEST_BATCH = 128
"""Impressions a batch, at most: news show tens of candidates each."""
_RECEIVED = 60
_ROW = "@row"
_NEEDS_VECTORS = "  # vectors\n"
"""End of a config line that needs vectors of items."""
_NEEDS_ARTICLES = "  # articles\n"
"""End of a config line that needs more of an item than its id."""


def find_parts(source: Path, parts: Mapping[str, str], file: str) -> dict[str, Path]:
    """Find the folders of a release's parts, in order: those named so or ending so, such as `MINDsmall_train`.

    Args:
        source: the folder of the release.
        parts: the name of each part → what it is, for an error.
        file: a file that each folder holds.

    Raises DataError if there is no such folder, or several of one part.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected {', '.join(parts)} in it, each with {file}")
    folders: dict[str, Path] = {}
    for part in parts:
        matches = [
            path.parent for path in sorted(source.glob(f"*/{file}")) if path.parent.name.endswith(part)
        ]
        if len(matches) > 1:
            raise DataError(
                f"{source}: {', '.join(map(str, matches))} are all of '{part}'; leave one in the folder"
            )
        if matches:
            folders[part] = matches[0]
    first = next(iter(parts))
    if first not in folders:
        raise DataError(f"{source}: no folder {first} with {file}, {parts[first]}; is it another folder?")
    return folders


def read_schema(path: Path, frame: pl.LazyFrame) -> pl.Schema:
    """Read the columns of a file. Raises DataError if it cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; the import needs it")
    try:
        return frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def scan_columns(path: Path, columns: Mapping[str, str]) -> pl.LazyFrame:
    """Open a Parquet file and choose columns.

    Args:
        path: the file.
        columns: name → `id`, `number`, `text`, `time`, `flag` or `list`, what it must hold.

    Raises DataError for a column that is missing or of another type.
    """
    frame = pl.scan_parquet(path)
    types = read_schema(path, frame)
    for name, kind in columns.items():
        if name not in types:
            raise DataError(f"{path}: no column {name}; it has {', '.join(types)}")
        if not _fits(types[name], kind):
            raise DataError(f"{path}: column {name} is {types[name]}; expected {_EXPECTED[kind]}")
    return frame.select(*columns)


_EXPECTED = {
    "id": "whole numbers or text",
    "number": "numbers",
    "text": "text",
    "time": "times",
    "flag": "true and false",
    "list": "lists",
}


def _fits(kind: pl.DataType, expected: str) -> bool:
    return (
        kind == pl.Null
        or (expected == "id" and (kind.is_integer() or kind == pl.String))
        or (expected == "number" and (kind.is_numeric() or kind == pl.Boolean))
        or (expected == "text" and isinstance(kind, pl.String | pl.Categorical | pl.Enum))
        or (expected == "time" and isinstance(kind, pl.Datetime))
        or (expected == "flag" and (kind == pl.Boolean or kind.is_integer()))
        or (expected == "list" and isinstance(kind, pl.List | pl.Array))
    )


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
                shown = "nothing" if value is None else repr(value if isinstance(value, str) else str(value))
                shown = shown if len(shown) <= _RECEIVED else f"{shown[:_RECEIVED]}…"
                raise DataError(
                    f"{path}: column {column}, row {row + 1}: expected {expected}; received {shown}"
                )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    return int(height)


def choose_splits(first: datetime, last: datetime, test: datetime | None) -> ImportedSplit:
    """Choose when validation and test begin.

    Args:
        first: time of the first request.
        last: time of the last one before the second part of the release, or of all if there is none.
        test: time of the first request of the second part, which is the test.

    Returns:
        The last day before the test, and the test: from a midnight on where that cuts between the parts. Of a log
        of one part and two days at most, the last tenths of the requests.
    """
    if test is None and last.date() - timedelta(days=1) > first.date():
        return ImportedSplit(last.date() - timedelta(days=1), last.date())
    if test is None:
        return TENTHS
    midnight = datetime(test.year, test.month, test.day)
    if midnight > last:
        return ImportedSplit(midnight.date() - timedelta(days=1), midnight.date())
    return ImportedSplit(test - timedelta(days=1), test)


def find_times(log: pl.LazyFrame, first_part: str) -> tuple[datetime, datetime, datetime | None]:
    """Find the first and the last time of the first part of a log, and the first of the other.

    Args:
        log: with columns `part` and `time`.
        first_part: the name of the first part.
    """
    time, second = pl.col("time").dt.replace_time_zone(None), pl.col("part") != first_part
    begin, test = time.filter(~second), time.filter(second)
    times = log.select(first=begin.min(), last=begin.max(), test=test.min()).collect()
    first, last, other = times.row(0)
    return first, last, other


def write_news_config(
    name: str,
    out: Path,
    split: ImportedSplit,
    impressions: int,
    articles: bool = True,
) -> None:
    """Write the config of an importer from `NAME.yaml` next to it.

    Args:
        name: of the importer.
        out: the folder that holds `items.parquet`; without vectors in it, lines that end in `# vectors` are left out.
        split: of the log.
        impressions: how many there are.
        articles: whether items have more than their ids; if not, lines that end in `# articles` are left out.
    """
    text = (Path(__file__).parents[1] / f"{name}.yaml").read_text(encoding="utf-8")
    kind = pl.read_parquet_schema(out / "items.parquet").get("vector")
    size = kind.size if isinstance(kind, pl.Array) else 0
    if not size:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.endswith(_NEEDS_VECTORS))
    if not articles:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.endswith(_NEEDS_ARTICLES))
    text = text.replace(_NEEDS_VECTORS, "\n").replace(_NEEDS_ARTICLES, "\n")
    # `auto` takes a two-hundredth, and would take larger batches
    requests = "auto" if impressions < 400 * LARGEST_BATCH else LARGEST_BATCH
    config = Template(text).substitute(split=split, dim=size, requests=requests)
    (out / "config.yaml").write_text(config, encoding="utf-8")
