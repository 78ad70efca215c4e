"""The manifest of packed data: what a folder holds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from corank.core.artifact import FolderName, Manifest, read_manifest
from corank.core.errors import CorankError, DataError, DiskError
from corank.core.files import remove_folder
from corank.core.objects import Location
from corank.core.settings import Settings
from corank.data.request_columns import Source
from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings

SETS = "sets"
"""The folder within packed data that holds those of other features."""
MARK = "continued.json"
"""A file of packed data that others continue: they hold a fixed past, and are not compared with files."""
PACK_AGAIN = "run `corank pack` again"


class ShardCount(Settings):
    """Name and size of a shard."""

    name: FolderName
    requests: int
    candidates: int


class ContinuedFrom(Settings):
    """The packed data that others continue."""

    location: str
    """Their folder or URL."""
    fingerprint: str
    through: int
    """When their training ended, ms UTC."""
    fixed: bool = False
    """Whether vocabularies were frozen."""


class InputFile(Settings):
    """A file at the time of a packing."""

    version: tuple[int, int | str] | None
    """Changes with the file, as in `SourceFile`."""
    rows: int
    first: int | None
    """Time of the earliest row, ms UTC; None if there is no row with a time."""
    last: int | None
    """Time of the latest row, ms UTC."""
    days: dict[str, int] = {}
    """Rows of each day, in the data's time zone, before training ends."""
    late: dict[str, int] = {}
    """Rows that came late: of days of an earlier packing, which did not read them."""


InputFiles = dict[str, dict[str, InputFile]]
"""By table, `log` or `events.NAME`, its files, by path as `find_versions` names them."""


class GrownRows(Settings):
    """The difference of a vocabulary from that of the packed data before."""

    admitted: int
    """Values that are new."""
    evicted: int
    """Values that were removed."""
    free: int | None = None
    """Values that may still come, up to `max_rows`; None without it."""


class PackManifest(Manifest):
    """Describes packed data."""

    error: ClassVar[type[CorankError]] = DataError
    disk_error: ClassVar[type[CorankError] | None] = DiskError
    missing: ClassVar[str] = "no packed data here; run `corank pack`"
    remedy: ClassVar[str] = PACK_AGAIN
    most_bytes: ClassVar[int] = 1 << 28
    beside: ClassVar[frozenset[str]] = frozenset({SETS, MARK})

    kind: str = "packed data"
    format: int = 8
    fingerprint: str
    data: DataSettings
    features: dict[str, Feature]
    splits: dict[FolderName, list[ShardCount]]
    levels: dict[str, int]
    """Candidates of each level."""
    dropped: dict[str, int]
    """Reason → rows that were left out, or users without a row in `users`."""
    last: int
    """The time of the log's last candidate, ms UTC."""
    sources: dict[str, Source]
    """The table of each feature of a column."""
    item_columns: list[str]
    """Those of the data's `columns` that are of the items."""
    inputs: dict[str, str]
    """The input files of each table, or feature with files of its own, from `hash_versions`."""
    columns: dict[str, list[str]]
    """The columns that packing may read of each table, from `find_columns`."""
    through: int
    """Rows before it, ms UTC, were trained on or are history."""
    continued: ContinuedFrom | None = None
    """The packed data that they continue, if any."""
    input_files: InputFiles = {}
    """The files of the log and of events, from which later packings see what is old and what came late."""
    snapshots: dict[str, list[str]] = {}
    """By table, such as `data.log`, the snapshots of a lakehouse that were read: in a config they give these data."""
    grown: dict[str, GrownRows] = {}
    """By feature whose vocabulary continued, how it grew and shrank."""

    def is_of_log(self, other: Self) -> bool:
        """Whether these data are of the same settings and files of tables as others."""
        same = all(other.inputs.get(key, version) == version for key, version in self.inputs.items())
        return same and self.data == other.data


def packed_settings(features: Mapping[str, Feature]) -> dict[str, Any]:
    """The settings of features by which they are packed: all but those that networks alone read."""
    return {
        name: feature.model_dump(mode="json", exclude=set(feature.unpacked_settings))
        for name, feature in features.items()
    }


def list_packs(root: Path) -> list[Path]:
    """List the folders of packed data of one log: the first, then those of other features."""
    return [root, *sorted(path for path in (root / SETS).glob("[!.]*") if path.is_dir())]


def remove_old_sets(root: Path) -> None:
    """Remove the sets of features of a log that was packed again. The caller holds its lock."""
    first = read_manifest(root, PackManifest)
    for folder in list_packs(root)[1:]:
        with suppress(DataError):
            if read_manifest(folder, PackManifest).is_of_log(first):
                continue
        with suppress(OSError):
            remove_folder(folder)


def require_fingerprint(manifest: PackManifest, expect: str | None, location: Location) -> None:
    """Raise DataError if packed data have not the fingerprint that they should have."""
    if expect is not None and manifest.fingerprint != expect:
        raise DataError(f"{location}: packed from another config or other files: {PACK_AGAIN}")


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Raise DataError, which names a folder of packed data, for an error of the block that damage explains.

    Not every value is checked when data are opened: that would take as long as to read them all.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder}: damaged ({type(error).__name__}: {error}): {PACK_AGAIN}") from error
