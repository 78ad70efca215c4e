"""Keys that say whether a feature that is packed already is the one that is wanted, and what a feature is made of."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from corank.features.history import EventParts
from corank.features.schema import Schema


def find_feature_keys(schema: Schema) -> dict[str, str]:
    """Hash each feature: its settings but for those that only networks read, its column, and what it is made of.

    Over the same data, features of one key are packed alike, whatever they are called.
    """
    found: dict[str, str] = {}

    def key_of(name: str) -> str:
        if name not in found:
            feature = schema.features[name]
            settings = feature.model_dump(mode="json", exclude=set(feature.unpacked_settings))
            made_of = {part: key_of(part) for part in sorted(schema.needs(name))}
            column = schema.column(name) if feature.as_column else None
            text = json.dumps(
                [settings | {"column": column}, made_of, _describe_events(schema, name)], sort_keys=True
            )
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        return found[name]

    return {name: key_of(name) for name in schema.features}


def _describe_events(schema: Schema, name: str) -> list[object]:
    """What is kept of the events of a history, which depends on others: of other features nothing."""
    history = schema.histories().get(name)
    if history is None:
        return []
    parts = EventParts.of(schema, history.events)
    attributes = {n: schema.features[n].model_dump(mode="json") for n in parts.attributes}
    return [parts.timed, parts.keys, list(attributes.items()), *parts.attribute_keys]


def _sharing(schema: Schema, name: str) -> set[str]:
    """The features that decide what is kept of the events of a history."""
    history = schema.histories().get(name)
    if history is None:
        return set()
    shared = {n for n, other in schema.histories().items() if other.events == history.events}
    found = shared | {n for n, of in schema.parallels().items() if of in shared}
    parts = EventParts.of(schema, history.events)
    taken = {*(shared if parts.keys else ()), *parts.attribute_keys}
    # one that takes it is enough for it to be kept
    takers = {operand: n for n, f in reversed(schema.derived().items()) for operand in f.operands}
    return found | {takers[name] for name in taken if name in takers}


def reduce_schema(schema: Schema, names: Iterable[str]) -> Schema:
    """Select some features and all that they are made of, in the order of the schema."""
    kept = set(names)
    while more := {part for name in kept for part in schema.needs(name) | _sharing(schema, name)} - kept:
        kept |= more
    return Schema({name: feature for name, feature in schema.features.items() if name in kept})


def hash_features(schema: Schema) -> str:
    """Hash all features with all their settings, in any order."""
    plain: Mapping[str, object] = {
        n: feature.model_dump(mode="json") for n, feature in schema.features.items()
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
