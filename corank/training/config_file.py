"""YAML → a config, and back to plain values."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from corank.core.errors import ConfigError, PluginError
from corank.core.formatting import shorten
from corank.core.registry import load_plugins
from corank.core.settings import validate
from corank.core.types import Report
from corank.training.config import Config
from corank.training.feature_changes import check_without, find_removed, without_features
from corank.training.yaml_reader import read_yaml, read_yaml_file


def read(
    path: Path,
    overrides: Sequence[str] = (),
    without: Sequence[str] = (),
    report: Report = lambda line: None,
) -> Config:
    """Read the config of a YAML file.

    Args:
        path: of the file.
        overrides: `a.b=value` changes, whose values are YAML; items of lists go by number. `features.NAME=null` removes
            a feature, as `without` does.
        without: features to remove. What is made of them goes, too, as do their places in lists of stages.
        report: receives a line if other features go than those that are named.

    Raises ConfigError, which names the key, what was received and what is expected.
    """
    value = read_yaml_file(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys such as name, data and features at the top level")
    removed: dict[str, Any] = {}
    for override in overrides:
        _set(value, override, removed)
    whole = from_plain(value, str(path), path.parent)
    names = list(dict.fromkeys([*without, *removed]))
    if not names:
        return whole
    check_without(whole.declared, names)
    if more := [name for name in find_removed(whole.declared, names) if name not in names]:
        report(
            f"without {', '.join(names)}: {', '.join(more)} removed, too: made of these, or operands of nothing now"
        )
    return from_plain(without_features(plain(whole), names), str(path), path.parent)


def from_plain(value: Any, source: str, folder: Path) -> Config:
    """A config from plain values, its plug-ins loaded first.

    Args:
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for beside the Python path; usually the config's.

    Raises ConfigError, which names the key, and PluginError.
    """
    match value:
        case {"plugins": [*modules]} if all(isinstance(name, str) for name in modules):
            try:
                load_plugins(modules, folder)
            except PluginError as error:
                raise PluginError(f"{source}: {error}") from None
    return validate(Config, value, source)


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
    """Set a key of plain values, such as `stages.1.dropout`. Raises ConfigError, which begins with `source`."""
    *parents, last = path.split(".")
    for part in parents:
        value = _entry(value, part, source)
    if isinstance(value, list):
        _entry(value, last, source)
        value[int(last)] = new
    elif isinstance(value, dict):
        value[last] = new
    else:
        raise _no_such_place(source)


def _entry(value: Any, part: str, source: str) -> Any:
    """What stands under a key of a mapping, an empty mapping if nothing does, or at an index of a list."""
    if isinstance(value, dict):
        return value.setdefault(part, {})
    if isinstance(value, list) and re.fullmatch("[0-9]{1,9}", part) and int(part) < len(value):
        return value[int(part)]
    raise _no_such_place(source)


def _no_such_place(source: str) -> ConfigError:
    return ConfigError(f"{source}: the config has no such place")


def plain(config: Config) -> dict[str, Any]:
    """The config as YAML or JSON values, every default written out."""
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Plain values as one mapping, by the path of each.

    Example:
        >>> flatten({"train": {"seed": 1}, "losses": [{"kind": "click"}]})
        {'train.seed': 1, 'losses.0.kind': 'click'}
    """
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v
            for key, part in items
            for k, v in flatten(part, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: value}
