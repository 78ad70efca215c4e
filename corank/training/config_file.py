"""YAML → a config, and back to plain values."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from corank.core.errors import ConfigError, PluginError
from corank.core.registry import load_plugins
from corank.core.settings import validate
from corank.training.config import Config


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `on` is a key of losses, not the value true."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def read(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, with `a.b=c` overrides (list items by number) whose values are YAML.

    Raises ConfigError, which names the key, what was received and what is expected.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys such as name, data and features at the top level")
    for override in overrides:
        _set(value, override)
    return from_plain(value, str(path), path.parent)


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


def _set(value: Any, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: expected a.b=value")
    *parents, last = path.split(".")
    try:
        for part in parents:
            value = value[int(part)] if isinstance(value, list) else value.setdefault(part, {})
        if isinstance(value, list):
            value[int(last)] = yaml.load(text, _Loader)
        elif isinstance(value, dict):
            value[last] = yaml.load(text, _Loader)
        else:
            raise TypeError
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"--set {override}: the config has no such place") from None
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: '{text}' is not valid YAML") from None


def plain(config: Config) -> dict[str, Any]:
    """The config as YAML or JSON values, every default written out."""
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain
