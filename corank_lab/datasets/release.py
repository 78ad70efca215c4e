"""What importers of releases in parts share: their folders, their splits, and configs of news logs."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from string import Template

import polars as pl

from corank.core.errors import DataError
from corank.datasets.importer import TENTHS, ImportedSplit

LARGEST_BATCH = 128
"""Impressions a batch, at most: news show tens of candidates each."""
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
    text = Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
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
