"""Fewer features: those that are named, and what is made of them, taken out of a config's plain values."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown, validate
from corank.features.feature_kind import Feature
from corank.features.schema import Schema
from corank.models.settings.mlp import TeacherSettings
from corank.models.settings.stage import STAGE_MODELS, StageSettings

Plain = dict[str, Any]
"""A config's plain values, every default written out."""
_FEATURES: TypeAdapter[dict[str, Feature]] = TypeAdapter(dict[str, Feature])


def schema_of(value: Plain) -> Schema:
    """The schema of the config's features."""
    return Schema(_FEATURES.validate_python(value["features"]))


def stage_settings(stage: Plain) -> StageSettings:
    """The settings of a stage."""
    return validate(STAGE_MODELS[stage["model"]], stage, f"stages.{stage['name']}")


def plain_stage(stage: StageSettings | TeacherSettings) -> Plain:
    """The plain values of a stage or a teacher."""
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
    schema, stages = schema_of(value), [stage_settings(stage) for stage in value["stages"]]
    teachers = [
        validate(TeacherSettings, teacher, f"teachers.{teacher['name']}") for teacher in value["teachers"]
    ]
    attended = [
        attention.history for network in (*stages, *teachers) if (attention := network.attended(schema))
    ]
    gone = find_removed(schema, names, attended)
    features = {name: feature for name, feature in value["features"].items() if name not in gone}
    validation = value["validation"]
    return value | {
        "features": features,
        "validation": validation
        | {"unjudged": [name for name in validation["unjudged"] if name not in gone]},
        "stages": [plain_stage(stage.without_features(gone)) for stage in stages],
        "teachers": [plain_stage(teacher.without_features(gone)) for teacher in teachers],
    }


def check_without(schema: Schema, names: Iterable[str]) -> None:
    """Raise ConfigError if one of the features that are to be removed is not declared."""
    for name in names:
        if name not in schema.features:
            raise ConfigError(
                f"features: '{name}' cannot be removed: {describe_unknown(name, schema.features, 'feature')}"
            )
