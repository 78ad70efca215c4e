"""Which features of a run are compared with new rows, and why others are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from corank.features.operands import with_compared
from corank.features.schema import Schema


@dataclass(frozen=True)
class ComparedFeatures:
    """The features that two schemas have alike, by how their values of new rows are computed."""

    columns: Sequence[str]
    """Read from a column."""
    derived: Sequence[str]
    """Made of such features."""
    histories: Sequence[str]
    """Lists of events of the log, or of a table."""
    left_out: Mapping[str, str]
    """Other features that the model reads, now or in the run: why they are not compared."""

    @classmethod
    def of(cls, before: Schema, now: Schema) -> Self:
        """Sort the features of a run's schema and of the new one."""
        columns, derived, histories, left_out = list[str](), list[str](), list[str](), dict[str, str]()
        for name in dict.fromkeys((*before.features, *now.features)):
            if not any(_is_read(schema, name) for schema in (before, now)):
                continue
            reason = _difference(before, now, name)
            feature = before.features.get(name)
            if reason is None and feature is not None:
                if name in before.histories():
                    group, reason = histories, _unfit_history(before, name)
                elif feature.as_derived is not None:
                    group, reason = derived, _unfit_derived(before, name)
                else:
                    group, reason = columns, _unfit_column(before, name)
                if reason is None:
                    group.append(name)
            if reason is not None:
                left_out[name] = reason
        return cls(columns, derived, histories, left_out)


def _is_read(schema: Schema, name: str) -> bool:
    """Whether rows hold it encoded: as an input, a vector or a history."""
    return name in schema.features and name in schema.row_features(schema.placement(name))


def _difference(before: Schema, now: Schema, name: str) -> str | None:
    if name not in before.features:
        return "the run has no such feature"
    if name not in now.features:
        return "the config has no such feature"
    for part in (name, *sorted(before.needs(name))):
        if before.features[part] != now.features.get(part):
            return (
                f"its settings, or those of '{part}', have changed"
                if part != name
                else "its settings have changed"
            )
    return None


def _unfit_history(schema: Schema, name: str) -> str | None:
    return (
        "its events are lists of the log or of users" if schema.histories()[name].lists is not None else None
    )


def _unfit_derived(schema: Schema, name: str) -> str | None:
    for feature in with_compared(schema, [schema.derived()[name]]):
        if feature.as_prior is not None:
            return "what it counts grows with time"
        past = {*schema.histories(), *schema.parallels()}
        if any(schema.history_of(operand) in past for operand in feature.operands):
            return "it is made of a history's items"
    return None


def _unfit_column(schema: Schema, name: str) -> str | None:
    if schema.features[name].attribute is not None:
        return "it is made of a history's items"
    return "it lists what events of a history have" if name in schema.parallels() else None
