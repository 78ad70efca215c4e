"""The input files of a config: what identifies the version of a file, and the columns that are read."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corank.core.storage.object_url import is_url
from corank.data.served.unusable_rows import SERVED_ID
from corank.data.source_files import find_source_files
from corank.data.tables import VALID_FROM, Table
from corank.features.feature_kind import FeatureKind
from corank.features.log_schema import DataSettings

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
        key: {
            file.path if is_url(file.path) else os.path.relpath(file.path, base): file.version
            for file in find_source_files(source, base)
        }
        for key, source in list_inputs(data, features).items()
    }


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
