"""A random request that a funnel can rank, made of values that its bundle knows, for those who have none at hand."""

from typing import Any

import numpy as np

from corank.core.time import now_ms
from corank.features.histories.sources import plain_columns
from corank.serving.funnel.funnel import Funnel

CANDIDATES, EVENTS = 100, 5
"""Number of candidates, and of events of a history."""
HOUR = 3_600_000
"""Milliseconds between two events."""


def make_example(funnel: Funnel, rng: np.random.Generator) -> dict[str, Any]:
    """Make a request of a random user, with every column; null where the bundle knows no value.

    Returns:
        The fields of a `Request`, for JSON.
    """
    manifest, schema = funnel.manifest, funnel.schema
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    items = ids.gather(rng.choice(len(ids), min(CANDIDATES, len(ids)), replace=False)).to_list()
    query = {
        side: {
            schema.column(n): f.sample(funnel.request_encoder.encoders.fitted.get(n), rng)
            for n, f in plain_columns(schema, "query").items()
            if f.side == side
        }
        for side in ("user", "context")
    }
    user = (
        {"id": query["user"].pop(manifest.user, None)}
        | query["user"]
        | _histories(funnel, items[:EVENTS], rng)
    )
    columns = manifest.request_columns
    pair: dict[str, Any] = dict.fromkeys(columns.cross) | dict.fromkeys(columns.values, 1.0)
    return {
        "user": user,
        "context": query["context"],
        "candidates": [{"id": item} | pair for item in items] if pair else items,
    }


def _histories(funnel: Funnel, items: list[Any], rng: np.random.Generator) -> dict[str, list[Any]]:
    """Histories of the same items, or of some values, an hour apart if times are needed, without attributes."""
    manifest, schema, now, columns = funnel.manifest, funnel.schema, now_ms(), dict[str, list[Any]]()
    fitted = funnel.request_encoder.encoders.fitted
    for name, history in schema.histories().items():
        listed = schema.columns()[name].sample(fitted[name], rng) or [] if history.values else items
        times = [now - HOUR * (len(listed) - n) for n in range(len(listed))]
        if history.lists is None:
            timed = [{"id": item, "time": time} for item, time in zip(listed, times, strict=True)]
            columns[name] = timed if name in manifest.timed_histories else listed
            continue
        columns[history.lists.column] = items
        columns |= {history.lists.times: times} if history.lists.times else {}
    beside = {schema.column(name) for name, of in schema.parallels().items() if schema.histories()[of].lists}
    return columns | {column: [None] * len(items) for column in beside - columns.keys()}
