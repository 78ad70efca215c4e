"""`layout.json` of a bundle: what readers in other languages would else infer from the features of the manifest.

It names features instead of positions and lists with each feature all that its computation needs, so that a reader
is a few loops over it. All of it follows from the manifest and the encoders; corank itself does not read it.
docs/bundle-format.md explains each key.
"""

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.arrays import write_array
from corank.core.time import MILLISECOND
from corank.data.packed.dataset import prior_folder
from corank.features.encoding import PLACEMENTS, Placement, RowFeatures
from corank.features.history import History
from corank.features.input_layout import Group, Layout, VectorColumns, event_groups
from corank.features.operands import OperandNames
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema, plain_columns

FILE = "layout.json"


def write_layout(folder: Path, manifest: BundleManifest, layout: Layout, priors: PriorSnapshots) -> None:
    """Write the file into a bundle's content, and the value that each prior has for each key, next to its counts."""
    prior: dict[str, dict[str, Any]] = {}
    for n, (name, feature) in enumerate(layout.schema.priors().items()):
        keys = priors.rates[name].keys
        absent = next(key for key in range(1, len(keys) + 2) if key not in keys)
        asked = np.append(keys, np.uint64(absent))
        values = priors.values(name, feature, asked, np.full(len(asked), manifest.priors[name]))
        write_array(prior_folder(folder, n) / "values.npy", values[:-1])
        prior[name] = {
            "file": f"priors/{n}",
            "other": None if np.isnan(values[-1]) else float(values[-1]),
        }
    described = describe_layout(manifest, layout)
    for derived in described["derived"].values():
        for facts in derived:
            facts |= prior.get(facts["feature"], {})
    (folder / FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")


def describe_layout(manifest: BundleManifest, layout: Layout) -> dict[str, Any]:
    """Describe the features of a manifest as a JSON value, without priors."""
    schema, columns = layout.schema, manifest.request_columns
    identity = {manifest.user}.intersection(schema.column_names(side="user"))
    return {
        "record": _parts(schema.record_features, ("ids", "lists", "numbers", "vectors")),
        "operands": _parts(schema.operand_names("item"), ("keys", "lists", "numbers")),
        "inputs": {p: _dense_columns(layout, p) for p in PLACEMENTS},
        "events": {
            stage.name: _event_columns(layout, stage.attended.history, stage.attended.features)
            for stage in manifest.stages
            if stage.attended
        },
        "matches": {s.name: _match_weights(layout, s) for s in manifest.stages if s.matches},
        "plain": {p: [_plain(manifest, n) for n in plain_columns(schema, p)] for p in PLACEMENTS},
        "derived": {p: [_derived(manifest, n) for n in schema.derived(p)] for p in PLACEMENTS},
        "histories": {
            name: _history(manifest, name, history) for name, history in schema.histories().items()
        },
        "gathered": _gathered(schema),
        "request": {
            "user": sorted(identity.union(columns.user, columns.histories)),
            "context": sorted(columns.context),
            "cross": sorted(columns.cross),
            "item": sorted(columns.item),
            "values": list(columns.values),
        },
    }


def _parts(names: RowFeatures | OperandNames, parts: Iterable[str]) -> dict[str, list[str]]:
    return {part: list(getattr(names, part)) for part in parts}


def _plain(manifest: BundleManifest, name: str) -> dict[str, Any]:
    """A feature that is encoded from a column, value by value."""
    schema, settings = manifest.declared, manifest.features[name].model_dump(mode="json")
    description = {"feature": name, "kind": settings["kind"], "column": schema.column(name)}
    description["encoder"] = schema.table_of(name)
    return description | {
        key: settings[key] for key in ("separator", "last", "dim", "normalise") if key in settings
    }


def _derived(manifest: BundleManifest, name: str) -> dict[str, Any]:
    """A feature that is made of others, with the side of each."""
    schema = manifest.declared
    operands = schema.derived()[name].operands
    of = [[schema.placement(schema.history_of(operand)), operand] for operand in operands]
    settings = manifest.features[name].model_dump(mode="json")
    description = {"feature": name, "kind": settings["kind"], "of": of}
    description |= {key: settings[key] for key in ("measure",) if key in settings}
    return description | ({"then": manifest.priors.get(name)} if description["kind"] == "age" else {})


def _gathered(schema: Schema) -> list[dict[str, str]]:
    """What is taken of the items of histories: lists that networks read, and operands."""
    lists = {name: ("codes", *of) for name, of in schema.attributes().items()}
    for operand in schema.history_operands():
        history, dot, feature = operand.rpartition(".")
        if dot:
            vector = schema.features[feature].storage == "vector"
            lists[operand] = ("vector" if vector else "hashes", history, feature)
    return [
        {"name": name, "is": what, "history": history, "feature": feature}
        for name, (what, history, feature) in lists.items()
    ]


def _match_weights(layout: Layout, stage: StageFacts) -> list[float]:
    """What each column of a stage's `cross` adds to its logit."""
    weights = [0.0] * layout.width("cross")
    for n, column in enumerate(layout.columns("cross", stage.matches).tolist()):
        weights[column] = stage.constants.get(f"match_{n}", 0.0)
    return weights


def _dense_columns(layout: Layout, placement: Placement) -> list[dict[str, Any]]:
    """The parts of a dense input, in the order of its columns."""
    placed = layout.schema.row_features(placement)
    numbers = (
        {"is": "number", "feature": n, "width": w} for n, w in zip(placed.numbers, placed.widths, strict=True)
    )
    return [
        *_embedded(layout.groups[placement], placed, []),
        *numbers,
        *_vectors(layout, layout.vectors[placement]),
    ]


def _event_columns(layout: Layout, history: str, features: list[str]) -> list[dict[str, Any]]:
    """As `_dense_columns`, of the events that a stage attends to."""
    placed, beside = layout.schema.row_features("item"), layout.schema.parallels_of(history)
    groups, vectors = event_groups(layout, history, features), layout.vectors_of("item", features)
    return [*_embedded(groups, placed, beside), *_vectors(layout, vectors)]


def _embedded(groups: Iterable[Group], placed: RowFeatures, beside: list[str]) -> Iterable[dict[str, Any]]:
    """The embedded features of a row; those of `beside` are counted from its end."""
    for group in groups:
        for at, offset in zip(group.ids.tolist(), group.offsets.tolist(), strict=True):
            name = placed.ids[at] if at >= 0 else beside[at]
            yield {"is": "id", "feature": name, "width": group.dim, "offset": offset}
        for listed in group.lists:
            yield {
                "is": "list",
                "feature": placed.lists[listed.index],
                "width": group.dim,
                "offset": listed.offset,
                "mean": listed.mean,
            }


def _vectors(layout: Layout, vectors: Iterable[VectorColumns]) -> Iterable[dict[str, Any]]:
    projections = list(layout.projections)
    for vector in vectors:
        projection = f"projection{projections.index(vector.name)}" if vector.shape.projection else None
        yield {"is": "vector", "feature": vector.name, "width": vector.width, "projection": projection}


def _history(manifest: BundleManifest, name: str, history: History) -> dict[str, Any]:
    schema, lists = manifest.declared, history.lists
    return {
        "item": history.of,
        "encoder": schema.table_of(name),
        "listed": lists is not None,
        "column": lists.column if lists else "id",
        "times": lists.times if lists else "time" if name in manifest.timed_histories else None,
        "separator": lists.separator if lists else None,
        "last": history.last,
        "after": history.known_after(manifest.data) // MILLISECOND if lists else 0,
        "every": _ms(history.every) if lists else None,
        "half_life": _ms(history.half_life),
        "beside": {
            n: {"column": schema.column(n), "encoder": schema.table_of(n)} for n in schema.parallels_of(name)
        },
    }


def _ms(length: timedelta | None) -> int | None:
    return None if length is None else length // MILLISECOND
