"""A config as users give it: a YAML file, a mapping, or `corank.Config`; with its tables as files or as frames."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel

from corank.api.frames import FrameFiles, TableSource, is_frame
from corank.core.errors import ConfigError
from corank.core.files import write_text
from corank.core.objects import PathOrUrl, require_local
from corank.core.reports import Report
from corank.training.config.config import Config, with_moments
from corank.training.config.config_file import from_plain, from_values, plain, read
from corank.training.config.yaml_values import change_values, read_values

ConfigSource = str | Path | Mapping[str, Any] | Config
"""A YAML file, a mapping of the same keys, or a config built in code."""
TABLES = ("log", "items", "users", "truth")


@dataclass(frozen=True)
class OpenedConfig:
    """A config, and where its relative paths begin."""

    settings: Config
    base: Path
    """The folder of the YAML file; the working directory for a config that is in no file."""
    file: Path | None
    """The YAML file, if nothing of it was changed by a frame."""
    frames: FrameFiles
    """The tables that were given as frames, which errors name."""

    @classmethod
    def open(
        cls,
        config: ConfigSource,
        overrides: Sequence[str] = (),
        without: Sequence[str] = (),
        report: Report = lambda line: None,
        tables: Mapping[str, TableSource] | None = None,
    ) -> Self:
        """Read a config.

        Args:
            config: a YAML file, a mapping, or a Config.
            overrides: `a.b=value` changes.
            without: features to remove.
            report: receives a line if other features go than those that are named.
            tables: by key of `data` (`log`, `items`, `users`, `truth`, `events.NAME`), what is read in its place.

        Raises ConfigError, PluginError, and DataError for what is no table.
        """
        path = require_local(config) if isinstance(config, str | Path) else None
        base = Path() if path is None else path.parent
        if path is not None:
            values, source = read_values(path).value, str(path)
        elif isinstance(config, Mapping | Config):
            values, source = _plain_values(config), "config"
        else:
            raise ConfigError(
                f"config: expected a YAML file, a mapping or corank.Config; received {type(config).__name__}"
            )
        # a frame's file lies next to the packed data, which the config must name before the frame is written
        for key in tables or {}:
            _set_table(values, key, f"{key}.parquet")
        settings = from_values(change_values(values, overrides), source, base, without, report)
        frames = FrameFiles(_folder_of_frames(settings, base))
        if tables:
            changed = plain(settings)
            for key, table in tables.items():
                written = frames.source(key, table)
                _set_table(changed, key, os.path.relpath(written, base) if is_frame(table) else written)
            settings = from_plain(changed, source, base)
        return cls(settings, base, None if tables else path, frames)

    def with_moments(self) -> Self:
        """The config with moments where `data.split` has shares, read from its log. Raises DataError."""
        with self.frames.named():
            return replace(self, settings=with_moments(self.settings, self.base))

    @contextmanager
    def yaml_file(self) -> Iterator[Path]:
        """The config as a YAML file in its folder, which lasts as long as the block."""
        path = self.base / f".{self.settings.name}.{os.getpid()}.yaml"
        write_text(path, to_yaml(self.settings))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def kept_file(self) -> Path:
        """The config's YAML file; one that is in no file is written as `NAME.yaml`.

        Raises ConfigError if another config is there.
        """
        if self.file is not None:
            return self.file
        path, text = self.base / f"{self.settings.name}.yaml", to_yaml(self.settings)
        if path.exists() and read(path) != self.settings:
            raise ConfigError(f"{path}: holds another config; give this one another `name`, or move that one")
        write_text(path, text)
        return path


def to_yaml(config: Config) -> str:
    """A config as YAML, every default written out; reading it gives an equal config."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def _folder_of_frames(settings: Config, base: Path) -> Path:
    from corank.training.packed_data import packed_location  # which a config with a mistake does not need

    location = packed_location(settings, base)
    if not isinstance(location, Path):
        location = base / "packed" / settings.name
    return location.with_name(f"{location.name}.tables")


def _set_table(values: dict[str, Any], key: str, source: Any) -> None:
    """Set where a table of plain values lies. Raises ConfigError if there is no such table."""
    data = values.setdefault("data", {})
    name, _, event = key.partition(".")
    if not isinstance(data, dict) or not (key in TABLES or (name == "events" and event)):
        raise ConfigError(f"tables: unknown table {key!r}; expected {', '.join(TABLES)} or events.NAME")
    if event:
        events = data.setdefault("events", {})
        if isinstance(events, dict) and isinstance(events.setdefault(event, {}), dict):
            events[event]["table"] = source
    elif isinstance(data.get(key), dict):  # a log of lists
        data[key]["files"] = source
    else:
        data[key] = source


def _plain_values(value: Any) -> Any:
    """Plain values of a mapping: paths as text, tuples as lists, settings built in code as mappings."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {key: _plain_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def local(path: PathOrUrl | None) -> Path | None:
    """A path of this machine, if one is given. Raises StorageError for a URL."""
    return None if path is None else require_local(path)
