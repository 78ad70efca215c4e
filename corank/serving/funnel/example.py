"""A request that a funnel can rank, drawn from what its bundle knows: for who has none at hand."""

from typing import Any

import numpy as np
import polars as pl

from corank.core.time import now_ms
from corank.features.kinds import IdsFeature
from corank.features.scale import Bucket
from corank.features.schema import Schema
from corank.features.vocabulary import Vocabulary
from corank.serving.funnel.funnel import Funnel

CANDIDATES, EVENTS, VALUES = 100, 5, 2
"""How many of each there are."""
HOUR = 3_600_000


def example(funnel: Funnel, rng: np.random.Generator) -> dict[str, Any]:
    """REQUEST.json of a made-up user, with every column; what the bundle knows no value of is null."""
    manifest, schema = funnel.manifest, funnel.schema
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    items = ids.gather(rng.choice(len(ids), min(CANDIDATES, len(ids)), replace=False)).to_list()
    query = {
        side: {
            schema.column(n): _value(funnel, n, rng)
            for n, f in schema.columns("query").items()
            if f.side == side
        }
        for side in ("user", "context")
    }
    user = {"id": query["user"].pop(manifest.user, None)} | query["user"] | _histories(schema, items[:EVENTS])
    pair: dict[str, Any] = {schema.column(n): None for n in schema.columns("cross")}
    pair |= {column: 1.0 for column in manifest.data.columns if column not in manifest.item_columns}
    return {
        "user": user,
        "context": query["context"],
        "candidates": [{"id": item} | pair for item in items] if pair else items,
    }


def _histories(schema: Schema, items: list[Any]) -> dict[str, list[Any]]:
    """The same items in each, an hour apart where it counts."""
    now = now_ms()
    timed = [{"id": item, "time": now - HOUR * (len(items) - n)} for n, item in enumerate(items)]
    return {name: items if f.half_life is None else timed for name, f in schema.histories().items()}


def _value(funnel: Funnel, name: str, rng: np.random.Generator) -> Any:
    """One that training knew, if that can be told."""
    encoder = funnel.request_encoder.encoders.fitted[name]
    known: pl.Series | list[float] = []
    if isinstance(encoder, Vocabulary):
        known = encoder.values
    elif isinstance(encoder, Bucket):
        known = encoder.edges.tolist()
    if not len(known):
        return None
    drawn = [known[n] for n in rng.integers(0, len(known), VALUES).tolist()]
    return drawn if isinstance(funnel.schema.features[name], IdsFeature) else drawn[0]
