"""Keys that configs of earlier versions have, and what to do about each."""

from typing import Any

from corank.core.errors import ConfigError

GONE = {
    "train.gradient_conflict": "projected gradients bettered the end of the cascade in no measured world; remove it",
    "train.skip_easy": "it bettered the end of the cascade in no measured world; remove it",
}
"""Key → what became of it, and what to do."""


def drop_gone_keys(config: Any) -> Any:
    """Plain values of a config without the keys of GONE that are null, as in the file of an earlier run.

    Raises ConfigError if one has another value.
    """
    for key in GONE:
        config = _drop(config, key.split("."), key)
    return config


def _drop(value: Any, path: list[str], key: str) -> Any:
    name, *rest = path
    if not isinstance(value, dict) or name not in value:
        return value
    if rest:
        return {**value, name: _drop(value[name], rest, key)}
    if value[name] is not None:
        raise ConfigError(f"{key} is gone: {GONE[key]}")
    return {other: part for other, part in value.items() if other != name}
