"""Callbacks by name, as in `corank train --track`."""

from collections.abc import Sequence
from typing import Any

from corank.core.errors import ConfigError, PluginError
from corank.core.registry import Registry
from corank.core.settings import Settings, validate
from corank.training.callbacks import Callback
from corank.training.tracking.tracker import Tracker


def _check(what: str, part: Any) -> None:
    """Raise PluginError unless a part is a class of callbacks whose constructor takes settings."""
    if not (isinstance(part, type) and issubclass(part, Callback) and issubclass(part, Settings)):
        raise PluginError(f"{what}: expected a class derived from Callback and Settings")
    if missing := sorted(part.__abstractmethods__):
        raise PluginError(f"{what}: {part.__name__} must implement {', '.join(missing)}")


CALLBACKS = Registry[type[Callback]]("callback", "corank.callbacks", "corank.training.tracking", _check)


def read_callbacks(texts: Sequence[str]) -> list[Callback]:
    """Make callbacks from `NAME`, or `NAME,KEY=VALUE,…` with settings.

    Raises ConfigError for a setting, PluginError for a name that is unknown, MissingExtraError.

    Example:
        read_callbacks(["mlflow,experiment=shop"])
    """
    names = [text.partition(",")[0] for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"callback {name}: given {names.count(name)} times; name each callback once")
    return [_read(text) for text in texts]


def read_trackers(names: Sequence[str]) -> list[Tracker]:
    """Make trackers from `NAME` or `NAME,KEY=VALUE,…`, one at least.

    Raises ConfigError for what is no tracker, and as `read_callbacks`.
    """
    callbacks = read_callbacks(names)
    trackers = [callback for callback in callbacks if isinstance(callback, Tracker)]
    if not callbacks or len(trackers) < len(callbacks):
        other = [name for name, callback in zip(names, callbacks, strict=True) if callback not in trackers]
        raise ConfigError(
            f"name trackers, such as mlflow; received {', '.join(other) or 'none'}, which cannot add to a run"
        )
    return trackers


def _read(text: str) -> Callback:
    name, *pairs = text.split(",")
    made = CALLBACKS.find(name)
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"callback {name}: expected KEY=VALUE after each comma; received {pair!r}")
        settings[key] = value
    return validate(made, settings, f"callback {name}")  # type: ignore[type-var]
