"""YAML → a config, and back to plain values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corank.core.settings import validate
from corank.core.types import Report
from corank.models.settings.stage import STAGE_MODELS
from corank.training.config import Config
from corank.training.feature_changes import check_without, find_removed, without_features
from corank.training.plain_config.config_values import ConfigValues, load_named_plugins, read_values


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
    return from_values(read_values(path, overrides), str(path), path.parent, without, report)


def from_values(
    values: ConfigValues,
    source: str,
    folder: Path,
    without: Sequence[str] = (),
    report: Report = lambda line: None,
) -> Config:
    """A config from plain values that overrides have changed, without the features that are to go. See `read`.

    Args:
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for in addition to the Python path.
    """
    value, removed = values
    whole = from_plain(value, source, folder)
    names = list(dict.fromkeys([*without, *removed]))
    if not names:
        return whole
    check_without(whole.declared, names)
    gone = find_removed(whole.declared, names, whole.attended(whole.declared))
    if more := [name for name in gone if name not in names]:
        report(
            f"without {', '.join(names)}: {', '.join(more)} removed, too: made of these, or operands of nothing now"
        )
    return from_plain(without_features(plain(whole), names), source, folder)


def from_plain(value: Any, source: str, folder: Path) -> Config:
    """A config from plain values, its plug-ins loaded first.

    Args:
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for in addition to the Python path; usually the config's.

    Raises ConfigError, which names the key, and PluginError.
    """
    load_named_plugins(value, source, folder)
    return validate(Config, value, source)


def from_saved(value: Any, source: str, folder: Path) -> Config:
    """The config of an earlier run from plain values, as `from_plain`: a key that it lacks means what it meant then."""
    load_named_plugins(value, source, folder)
    return validate(Config, complete_saved(value), source)


def complete_saved(value: Any) -> Any:
    """Plain values of an earlier run's config with the keys of stages that it lacks and whose defaults have changed."""
    match value:
        case {"stages": [*stages]}:
            return {**value, "stages": [_complete_stage(stage) for stage in stages]}
    return value


def _complete_stage(stage: Any) -> Any:
    """A stage's plain values; the same if they name no stage model that is known."""
    match stage:
        case {"model": str(model)} if model in STAGE_MODELS:
            return {**STAGE_MODELS[model].saved_defaults, **stage}
    return stage


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
