"""`layout.json` of a bundle: what readers in other languages would else infer from the features of the manifest.

It says nothing that the manifest and the encoders do not say; corank itself does not read it. docs/bundle-format.md
explains each key.
"""

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from corank.bundle.manifest import BundleManifest
from corank.core.arrays import write_array
from corank.core.time import MILLISECOND
from corank.data.dataset import prior_folder
from corank.features.histories.event_layout import event_groups
from corank.features.histories.sources import plain_columns
from corank.features.history import History
from corank.features.input_layout import Group, Layout, VectorColumns
from corank.features.operands import OperandNames
from corank.features.priors import PriorSnapshots
from corank.features.schema import PLACEMENTS, Placement, Schema

FILE = "layout.json"


def write_layout(folder: Path, manifest: BundleManifest, layout: Layout, priors: PriorSnapshots) -> None:
    """Write the file into a bundle's content, and the value that each prior has for each key, beside its counts."""
    other = {}
    for n, (name, feature) in enumerate(layout.schema.priors().items()):
        keys = priors.rates[name].keys
        absent = next(key for key in range(1, len(keys) + 2) if key not in keys)
        asked = np.append(keys, np.uint64(absent))
        values = priors.values(name, feature, asked, np.full(len(asked), manifest.priors[name]))
        write_array(prior_folder(folder, n) / "values.npy", values[:-1])
        other[name] = None if np.isnan(values[-1]) else float(values[-1])
    described = describe_layout(manifest, layout) | {"priors": other}
    (folder / FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")


def describe_layout(manifest: BundleManifest, layout: Layout) -> dict[str, Any]:
    """Describe what the features of a manifest come to, as a JSON value; priors are left out."""
    schema, columns = layout.schema, manifest.request_columns
    identity = {manifest.user}.intersection(schema.column_names(side="user"))
    return {
        "rows": {p: _row_features(schema, p) for p in PLACEMENTS},
        "inputs": {p: _dense_columns(layout, p) for p in PLACEMENTS},
        "events": {
            stage.name: _event_columns(layout, stage.attended.history, stage.attended.features)
            for stage in manifest.stages
            if stage.attended
        },
        "plain": {p: list(plain_columns(schema, p)) for p in PLACEMENTS},
        "derived": {p: {n: list(f.operands) for n, f in schema.derived(p).items()} for p in PLACEMENTS},
        "operands": {p: _operands(schema, p) for p in PLACEMENTS},
        "sides": {
            operand: schema.placement(schema.history_of(operand))
            for feature in schema.derived().values()
            for operand in feature.operands
        },
        "columns": {name: schema.column(name) for name in schema.columns()},
        "encoders": {name: schema.table_of(name) for name in schema.features},
        "histories": {name: _history(manifest, name, held) for name, held in schema.histories().items()},
        "attributes": {name: list(of) for name, of in schema.attributes().items()},
        "request": {
            "user": sorted(identity.union(columns.user, columns.histories)),
            "context": sorted(columns.context),
            "cross": sorted(columns.cross),
            "item": sorted(columns.item),
            "values": list(columns.values),
        },
    }


def _row_features(schema: Schema, placement: Placement) -> dict[str, list[str]]:
    placed = schema.row_features(placement)
    return {part: list(getattr(placed, part)) for part in ("ids", "lists", "numbers", "vectors")}


def _operands(schema: Schema, placement: Placement) -> dict[str, list[str]]:
    names = OperandNames.of(schema, placement)
    return {part: list(getattr(names, part)) for part in ("keys", "lists", "numbers")}


def _dense_columns(layout: Layout, placement: Placement) -> list[dict[str, Any]]:
    """The parts of a dense input, in the order of its columns."""
    return [
        *_embedded(layout.groups[placement]),
        *({"is": "number", "at": n, "width": 1} for n in range(layout.schema.row_features(placement).width)),
        *_vectors(layout, layout.vectors[placement]),
    ]


def _event_columns(layout: Layout, history: str, features: list[str]) -> list[dict[str, Any]]:
    """As `_dense_columns`, of the events that a stage attends to."""
    vectors = layout.vectors_of("item", features)
    return [*_embedded(event_groups(layout, history, features)), *_vectors(layout, vectors)]


def _embedded(groups: Iterable[Group]) -> Iterable[dict[str, Any]]:
    for group in groups:
        for at, offset in zip(group.ids.tolist(), group.offsets.tolist(), strict=True):
            yield {"is": "id", "at": at, "width": group.dim, "offset": offset}
        for listed in group.lists:
            yield {
                "is": "list",
                "at": listed.index,
                "width": group.dim,
                "offset": listed.offset,
                "mean": listed.mean,
            }


def _vectors(layout: Layout, vectors: Iterable[VectorColumns]) -> Iterable[dict[str, Any]]:
    projections = list(layout.projections)
    for held in vectors:
        projection = f"projection{projections.index(held.name)}" if held.shape.projection else None
        yield {"is": "vector", "at": held.index, "width": held.width, "projection": projection}


def _history(manifest: BundleManifest, name: str, history: History) -> dict[str, Any]:
    schema, lists = manifest.declared, history.lists
    return {
        "item": history.of,
        "column": lists.column if lists else None,
        "times": lists.times if lists else None,
        "separator": lists.separator if lists else None,
        "timed": name in manifest.timed_histories,
        "last": history.last,
        "after": history.known_after(manifest.data) // MILLISECOND if lists else 0,
        "every": _ms(history.every) if lists else None,
        "half_life": _ms(history.half_life),
        "attended": name in manifest.attended,
        "beside": schema.parallels_of(name),
    }


def _ms(length: timedelta | None) -> int | None:
    return None if length is None else length // MILLISECOND
