"""A config's file and overrides → plain values."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from corank.core.errors import ConfigError, PluginError
from corank.core.formatting import shorten
from corank.core.registry import load_plugins
from corank.training.plain_config.yaml_reader import read_yaml, read_yaml_file


class ConfigValues(NamedTuple):
    """The plain values of a config, with what overrides remove."""

    value: dict[str, Any]
    removed: dict[str, Any]
    """Features that an override sets to null; they are still among the values."""


def read_values(path: Path, overrides: Sequence[str] = ()) -> ConfigValues:
    """Read a config's file, and change it by overrides `a.b=value`. Raises ConfigError."""
    value = read_yaml_file(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys such as name, data and features at the top level")
    return change_values(value, overrides)


def change_values(value: dict[str, Any], overrides: Sequence[str]) -> ConfigValues:
    """Change plain values in place by overrides `a.b=value`. Raises ConfigError."""
    removed: dict[str, Any] = {}
    for override in overrides:
        _set(value, override, removed)
    return ConfigValues(value, removed)


def load_named_plugins(value: Any, source: str, folder: Path) -> None:
    """Load the plug-ins that plain values name. Raises PluginError, which begins with `source`.

    Args:
        value: of a config.
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for in addition to the Python path; usually the config's.
    """
    match value:
        case {"plugins": [*modules]} if all(isinstance(name, str) for name in modules):
            try:
                load_plugins(modules, folder)
            except PluginError as error:
                raise PluginError(f"{source}: {error}") from None


def _set(value: Any, override: str, removed: dict[str, Any]) -> None:
    """Change plain values by an override; a feature that it removes is noted, and stays until all are checked."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {shorten(override)}: expected a.b=value")
    try:
        new = read_yaml(text, f"--set {shorten(override)}")
    except yaml.YAMLError:
        raise ConfigError(f"--set {shorten(override)}: '{shorten(text)}' is not valid YAML") from None
    parent, _, name = path.partition(".")
    if parent == "features" and name and "." not in name:
        removed.pop(name, None)
        if new is None:
            removed[name] = None
            return
    set_key(value, path, new, f"--set {shorten(override)}")


def set_key(value: Any, path: str, new: Any, source: str) -> None:
    """Set a key of plain values, such as `stages.1.dropout`; the number after a list's last appends to it.

    Raises ConfigError, which begins with `source`.
    """
    *parents, last = path.split(".")
    for part in parents:
        value = _entry(value, part, source)
    if isinstance(value, list):
        if last == str(len(value)):
            value.append(None)
        _entry(value, last, source)
        value[int(last)] = new
    elif isinstance(value, dict):
        value[last] = new
    else:
        raise _no_such_place(source)


def _entry(value: Any, part: str, source: str) -> Any:
    """The value at a key of a mapping, an empty mapping if there is none, or at an index of a list."""
    if isinstance(value, dict):
        return value.setdefault(part, {})
    if isinstance(value, list) and re.fullmatch("[0-9]{1,9}", part) and int(part) < len(value):
        return value[int(part)]
    raise _no_such_place(source)


def _no_such_place(source: str) -> ConfigError:
    return ConfigError(f"{source}: the config has no such place")
