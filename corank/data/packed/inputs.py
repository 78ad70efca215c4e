"""What data are packed from: the files and snapshots of each table, and what identifies their versions."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corank.data.packed.manifest import ContinuedFrom, PackManifest, packed_settings
from corank.data.table_formats import find_format
from corank.data.tables import RECORDED_AT, VALID_FROM, SourceFile, Table, find_source_files
from corank.data.validate import SERVED_ID
from corank.features.feature_kind import FeatureKind
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
        pinned = [form.pin(part, base) if (form := find_format(part)) else part for part in parts]
        if lakes := list(filter(find_format, pinned)):
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
    names = {VALID_FROM, RECORDED_AT, SERVED_ID, *features, *data.labels}
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
