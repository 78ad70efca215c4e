"""YAML → a config and back to plain values; and a config without some features."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from corank.core.errors import ConfigError
from corank.core.page import PAGE, PageSettings
from corank.core.reports import Report
from corank.core.settings import describe_unknown, validate
from corank.features.feature_kind import Feature
from corank.features.schema import Schema
from corank.models.settings.mlp import TeacherSettings
from corank.models.settings.stage import STAGE_MODELS, StageSettings
from corank.training.config.config import Config
from corank.training.config.yaml_values import ConfigValues, load_named_plugins, read_values, set_key

Plain = dict[str, Any]
"""A config's plain values, every default written out."""
_FEATURES: TypeAdapter[dict[str, Feature]] = TypeAdapter(dict[str, Feature])


def schema_of(value: Plain) -> Schema:
    """The schema of the config's features."""
    return Schema(_FEATURES.validate_python(value["features"]))


def stage_settings(stage: Plain) -> StageSettings:
    """The settings of a stage."""
    return validate(STAGE_MODELS[stage["model"]], stage, f"stages.{stage['name']}")


def split_page(value: Plain) -> tuple[Plain, list[PageSettings]]:
    """The plain values of a config without its page, and the page, if there is one."""
    stages = value["stages"]
    pages = [validate(PageSettings, stage, "page") for stage in stages if stage["model"] == PAGE]
    return value | {"stages": stages[: len(stages) - len(pages)]}, pages


def plain_stage(stage: StageSettings | TeacherSettings | PageSettings) -> Plain:
    """The plain values of a stage, a teacher, or the page."""
    plain: Plain = stage.model_dump(mode="json", by_alias=True)
    return plain


def find_removed(schema: Schema, names: Iterable[str], attended: Iterable[str]) -> list[str]:
    """Name the features that go if some do: those, what is made of them, and operands that nothing reads then.

    Args:
        schema: all features.
        names: those that go.
        attended: histories that networks attend to.
    """
    gone = set(names)
    while more := {name for name in schema.features if gone & schema.needs(name)} - gone:
        gone |= more
    while more := set(schema.unread(gone, set(attended) - gone)) - gone:
        gone |= more
    return [name for name in schema.features if name in gone]


def without_features(value: Plain, names: Iterable[str]) -> Plain:
    """Remove features from the config and its networks, with what is made of them or is read by nothing then."""
    value, pages = split_page(value)
    schema, stages = schema_of(value), [stage_settings(stage) for stage in value["stages"]]
    teachers = [
        validate(TeacherSettings, teacher, f"teachers.{teacher['name']}") for teacher in value["teachers"]
    ]
    attended = [
        attention.history for network in (*stages, *teachers) if (attention := network.attended(schema))
    ]
    gone = find_removed(schema, names, attended)
    features = {name: feature for name, feature in value["features"].items() if name not in gone}
    drift = value["drift"]
    return value | {
        "features": features,
        "drift": drift | {"unjudged": [name for name in drift["unjudged"] if name not in gone]},
        "stages": [
            *(plain_stage(stage.without_features(gone)) for stage in stages),
            *(plain_stage(page.without_features(gone)) for page in pages),
        ],
        "teachers": [plain_stage(teacher.without_features(gone)) for teacher in teachers],
    }


def check_without(schema: Schema, names: Iterable[str]) -> None:
    """Raise ConfigError if one of the features that are to be removed is not declared."""
    for name in names:
        if name not in schema.features:
            raise ConfigError(
                f"features: '{name}' cannot be removed: {describe_unknown(name, schema.features, 'feature')}"
            )


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
        report: receives a line if other features go than those that are named, or a key has an earlier name.

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
        report(f"without {', '.join(names)}: {', '.join(more)} removed, too: made of these, or of no use now")
    return from_plain(without_features(plain(whole), names), source, folder)


def with_keys(value: Plain, keys: Mapping[str, Any], source: str, folder: Path) -> Config:
    """The config of plain values with keys set, of which `features.NAME: null` removes a feature. See `from_values`."""
    removed = dict[str, Any]()
    for key, new in keys.items():
        if new is None and re.fullmatch(r"features\.[^.]+", key):
            removed[key.partition(".")[2]] = None
        else:
            set_key(value, key, new, f"{source}: {key}")
    return from_values(ConfigValues(value, removed), source, folder)


def from_plain(value: Any, source: str, folder: Path) -> Config:
    """A config from plain values, its plug-ins loaded first.

    Args:
        source: what errors begin with, such as the file.
        folder: where plug-ins are looked for in addition to the Python path; usually the config's.

    Raises ConfigError, which names the key, and PluginError.
    """
    load_named_plugins(value, source, folder)
    return validate(Config, value, source)


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
