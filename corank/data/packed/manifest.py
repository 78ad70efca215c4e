"""The manifest of packed data: what a folder holds, and from which config and files it was packed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from corank.core.artifact import FolderName, Manifest, read_manifest, remove_artifact
from corank.core.errors import CorankError, DataError, DiskError
from corank.core.objects import Location
from corank.core.settings import Settings
from corank.data.column_sources import Source
from corank.data.lake_tables import is_lake_table, pin_table
from corank.data.tables import VALID_FROM, SourceFile, Table, find_source_files
from corank.data.validate import SERVED_ID
from corank.features.feature_kind import Feature, FeatureKind
from corank.features.log_schema import DataSettings, ListLog
from corank.features.schema import Schema

Versions = dict[str, Any]
"""Path of a file, relative so that a project's folder may move, or URL → what identifies its version, if known."""


def list_inputs(data: DataSettings, features: Mapping[str, FeatureKind]) -> dict[str, str | list[str]]:
    """List the paths of each table, and of each feature with files of its own, by its key in the config."""
    sources = {"log": data.log_files, "items": data.items, "users": data.users, "truth": data.truth}
    sources |= {f"events.{name}": events.table for name, events in data.events.items()}
    inputs = {f"data.{name}": source for name, source in sources.items() if source is not None}
    return inputs | {f"features.{n}": list(f.vector.files) for n, f in features.items() if f.vector.files}


def find_versions(data: DataSettings, features: Mapping[str, FeatureKind], base: Path) -> dict[str, Versions]:
    """Find the versions of all input files, by table. Raises DataError, StorageError if a file is missing."""
    return {
        key: {name: file.version for name, file in name_files(source, base).items()}
        for key, source in list_inputs(data, features).items()
    }


def name_files(source: str | list[str], base: Path) -> dict[str, SourceFile]:
    """Find the files of a source, by the names of `Versions`. Raises DataError, StorageError if one is missing."""
    return {file.name(base): file for file in find_source_files(source, base)}


def pin_tables(data: DataSettings, base: Path) -> tuple[DataSettings, dict[str, list[str]]]:
    """Name the snapshot of each table of a lakehouse: all steps of a packing read the same one.

    Returns the settings with these, and by table those that there are, such as `delta:///lake/log?version=3`.
    Raises DataError, StorageError.
    """
    snapshots: dict[str, list[str]] = {}

    def pin(key: str, source: Any) -> Any:
        if source is None:
            return None
        parts = [source] if isinstance(source, str) else source
        pinned = [pin_table(part, base) if is_lake_table(part) else part for part in parts]
        if lakes := list(filter(is_lake_table, pinned)):
            snapshots[f"data.{key}"] = lakes
        return pinned if lakes else source

    log = pin("log", data.log_files)
    changed = {name: pin(name, getattr(data, name)) for name in ("items", "users", "truth")}
    changed["log"] = data.log.model_copy(update={"files": log}) if isinstance(data.log, ListLog) else log
    changed["events"] = {
        name: events.model_copy(update={"table": pin(f"events.{name}", events.table)})
        for name, events in data.events.items()
    }
    return data.model_copy(update=changed), snapshots


def hash_versions(versions: Mapping[str, Versions]) -> dict[str, str]:
    """Hash the versions of the files of each table."""
    return {
        key: hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        for key, files in versions.items()
    }


def name_columns(data: DataSettings, features: Mapping[str, FeatureKind]) -> set[str]:
    """Name the columns that packing may read: every text of the settings counts as such, and features' names."""
    names = {VALID_FROM, SERVED_ID, *features, *data.labels}
    values: list[Any] = [data.model_dump(mode="json")]
    values += [feature.model_dump(mode="json") for feature in features.values()]
    while values:
        match values.pop():
            case str() as text:
                names.add(text)
            case dict() as mapping:
                values += [value for key, value in mapping.items() if key not in ("kind", "side")]
            case list() as several:
                values += several
    return names


def find_columns(data: DataSettings, features: Mapping[str, FeatureKind], base: Path) -> dict[str, list[str]]:
    """Find the columns that packing may read of each table, such as `data.items`. Raises DataError."""
    named = name_columns(data, features)
    return {
        key: sorted(named & Table.scan(key.removeprefix("data."), source, base).types.keys())
        for key, source in list_inputs(data, {}).items()
    }


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


def fingerprint(
    data: DataSettings,
    schema: Schema,
    base: Path,
    continued: ContinuedFrom | None = None,
    versions: Mapping[str, Versions] | None = None,
) -> str:
    """Hash what packing reads: the settings of tables and features, and what identifies the version of each input file.

    Of a file that is its size and time, of an object size and etag.
    Of data that continue others, `continued`, it is a hash of those, too.
    Of a URL that is not of an object store there is only its name. Raises DataError, StorageError if a file is missing.
    """
    inputs = find_versions(data, schema.features, base) if versions is None else versions
    parts = [
        PackManifest.written_format(),
        data.model_dump(mode="json"),
        packed_settings(schema.features),
        inputs,
    ]
    if continued is not None:
        parts += [continued.fingerprint, continued.through, continued.fixed]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def list_packs(root: Path) -> list[Path]:
    """List the folders of packed data of one log: the first, then those of other features."""
    return [root, *sorted(path for path in (root / SETS).glob("[!.]*") if path.is_dir())]


def remove_old_sets(root: Path) -> None:
    """Remove the sets of features of a log that was packed anew, unless they are read. The caller holds its lock."""
    first = read_manifest(root, PackManifest)
    for folder in list_packs(root)[1:]:
        with suppress(DataError):
            if read_manifest(folder, PackManifest).is_of_log(first):
                continue
        with suppress(OSError):
            remove_artifact(folder)


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
