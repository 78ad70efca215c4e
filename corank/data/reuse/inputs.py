"""The input files of packed data, and what tells whether they are still the same.

Size and time of change, or an object's etag, tell it at once. Where they differ, the columns that the config names
decide: a table may get columns that nobody reads, be written anew, or be copied with the project.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from corank.core.files import atomic_file
from corank.core.settings import Settings
from corank.core.storage.object_url import is_url
from corank.data.reuse.column_digests import Run, TableContent, digest_columns
from corank.data.row_ranges import RowRange
from corank.data.served.unusable_rows import SERVED_ID
from corank.data.source_files import SourceFile, find_source_files
from corank.data.tables import VALID_FROM, Table
from corank.features.feature_kind import FeatureKind
from corank.features.log_schema import DataSettings

ACCEPTED = "accepted.json"
"""The file beside packed data that says which later versions of their inputs were found to hold the same."""
FEATURES = "features."
"""How the keys of features with files of their own begin."""
Versions = dict[str, Any]
"""Path of a file, relative so that a project's folder may move, or URL → what tells its versions apart, if known."""


class InputContent(Settings):
    """The input files of packed data: their versions, and what their columns held."""

    versions: dict[str, str]
    """Key of a table, or of a feature with files of its own → a hash of the versions of its files."""
    tables: dict[str, TableContent]
    """By the same keys, the columns that the config names; of a feature's files one, called as the feature is."""


def list_inputs(data: DataSettings, features: Mapping[str, FeatureKind]) -> dict[str, str | list[str]]:
    """List the paths of each table, by its key in the config, and of each feature with files of its own."""
    sources = {"log": data.log_files, "items": data.items, "users": data.users, "truth": data.truth}
    sources |= {f"events.{name}": events.table for name, events in data.events.items()}
    sources |= {f"{FEATURES}{n}": list(f.vector.files) for n, f in features.items() if f.vector.files}
    return {name: source for name, source in sources.items() if source is not None}


def find_versions(data: DataSettings, features: Mapping[str, FeatureKind], base: Path) -> dict[str, Versions]:
    """Find the versions of all input files, by table. Raises DataError, StorageError if a file is missing."""
    return {
        name: {
            file.path if is_url(file.path) else os.path.relpath(file.path, base): file.version
            for file in find_source_files(source, base)
        }
        for name, source in list_inputs(data, features).items()
    }


def hash_versions(versions: Mapping[str, Versions]) -> dict[str, str]:
    """Hash the versions of the files of each table."""
    return {
        name: hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        for name, files in versions.items()
    }


def name_columns(data: DataSettings, features: Mapping[str, FeatureKind]) -> set[str]:
    """Name the columns that packing may read: every text of the settings counts as such, and features' names."""
    found = {VALID_FROM, SERVED_ID, *features, *data.labels}
    values: list[Any] = [data.model_dump(mode="json")]
    values += [feature.model_dump(mode="json") for feature in features.values()]
    while values:
        match values.pop():
            case str() as text:
                found.add(text)
            case dict() as mapping:
                values += [value for key, value in mapping.items() if key not in ("kind", "side")]
            case list() as several:
                values += several
    return found


def read_content(
    data: DataSettings,
    features: Mapping[str, FeatureKind],
    base: Path,
    run: Run,
    names: Collection[str] | None = None,
) -> dict[str, TableContent]:
    """Hash the columns of tables that the config names, and the files that features have of their own.

    Args:
        data: the settings of the tables.
        features: the config's.
        base: the folder that the tables' paths are relative to.
        run: runs the tasks of a table.
        names: of some of `list_inputs`; all unless given.

    Raises DataError, StorageError.
    """
    found, named = {}, name_columns(data, features)
    for name, source in list_inputs(data, features).items():
        if names is not None and name not in names:
            continue
        if name.startswith(FEATURES):
            files = [_hash_file(file) for file in find_source_files(source, base)]
            whole = hashlib.sha256(b"".join(files)).hexdigest()
            found[name] = TableContent(rows=0, columns={name.removeprefix(FEATURES): whole})
            continue
        table = Table.scan(name, source, base)
        # of a log of served requests any column may decide which rows are kept
        chosen = sorted(column for column in table.types if column in named or SERVED_ID in table.types)
        found[name] = digest_columns(table, chosen, run)
    return found


def _hash_file(file: SourceFile) -> bytes:
    """Hash what a file holds; of a URL what tells its versions apart."""
    if is_url(file.path):
        return hashlib.sha256(json.dumps([file.path, file.version]).encode()).digest()
    with Path(file.path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def find_change(
    recorded: InputContent,
    data: DataSettings,
    packed: Mapping[str, FeatureKind],
    wanted: Mapping[str, FeatureKind],
    base: Path,
    folder: Path,
) -> str | None:
    """Find what changed in the input files since they were packed, as far as some features depend on it.

    Files of other versions are read. If they hold the same, their versions are noted beside the packed data.

    Args:
        recorded: of the packed data.
        data: their settings.
        packed: the features that they hold.
        wanted: those that are needed of them.
        base: the folder that the tables' paths are relative to.
        folder: of the packed data, or of a copy.

    Returns what changed, for people; None if nothing did. Raises DataError, StorageError if a file is missing.
    """
    versions, accepted = hash_versions(find_versions(data, wanted, base)), _accepted(folder)
    other = {
        name: version
        for name, version in versions.items()
        if name in recorded.versions and version not in (recorded.versions[name], accepted.get(name))
    }
    now = read_content(data, wanted, base, _run_here, other) if other else {}
    compared = name_columns(data, packed) & name_columns(data, wanted)
    changes = (_compare(name, recorded.tables[name], held, compared) for name, held in now.items())
    change = next(filter(None, changes), None)
    if change is None and other and packed.keys() == wanted.keys():
        _accept(folder, accepted | other)
    return change


def _run_here(function: Any, ranges: Sequence[RowRange]) -> list[Any]:
    return [function(rows) for rows in ranges]


def _compare(name: str, before: TableContent, now: TableContent, columns: Collection[str]) -> str | None:
    """Say in what a table differs, in some columns."""
    key = name if name.startswith(FEATURES) else f"data.{name}"
    if before.rows != now.rows:
        return f"{key} had {before.rows:,} rows, and has {now.rows:,}"
    for column in sorted(now.columns.keys() | before.columns.keys()):
        found, held = now.columns.get(column), before.columns.get(column)
        if column in columns and found != held:
            verb = "is new" if held is None else "is gone" if found is None else "changed"
            return f"{key}: column '{column}' {verb}"
    return None


def _accepted(folder: Path) -> dict[str, Any]:
    try:
        held = json.loads((folder / ACCEPTED).read_bytes())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _accept(folder: Path, versions: Mapping[str, str]) -> None:
    """Note versions that hold the same, unless the folder cannot be written; the newest of each table."""
    with suppress(OSError), atomic_file(folder / ACCEPTED) as partial:
        partial.write_text(json.dumps(versions), encoding="utf-8")
