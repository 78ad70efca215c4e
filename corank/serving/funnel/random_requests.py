"""Random requests for test cases: of values that the bundle knows, and of what it does not, with something missing.

A random request that a funnel can rank, made of values that its bundle knows, for those who have none at hand.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from corank.core.time import DAY, MILLISECOND, now_ms
from corank.features.feature_kind import ColumnFeature
from corank.features.schema import plain_columns
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


TIME = 1_777_478_400_000
"""Of the first request, unless the bundle's snapshots are later: 29 April 2026."""
MOST_EVENTS = 60
"""Events of a history."""
WORDS = ["", "red", "größer", "東京", "a longer text that no vocabulary has", "🙂"]


def draw_requests(funnel: Funnel, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Draw requests, the same for a seed."""
    rng = np.random.default_rng(seed)
    begin = max([TIME, *funnel.manifest.priors.values()])
    for n in range(count):
        yield _Draw(funnel, rng, begin + n * 1_234_567).request()


class _Draw:
    """One request."""

    def __init__(self, funnel: Funnel, rng: np.random.Generator, time: int) -> None:
        self.funnel, self.rng, self.time = funnel, rng, time
        self.schema, self.manifest = funnel.schema, funnel.manifest
        self.fitted = funnel.request_encoder.encoders.fitted
        layer = funnel.request_encoder.items.layers[0]
        self.ids = layer.records.ids.values
        self.by_column = {self.schema.column(n): n for n in self.schema.columns()}

    def request(self) -> dict[str, Any]:
        example = make_example(self.funnel, self.rng)
        user = self._columns({c: v for c, v in example["user"].items() if c != "id"}) | {
            "id": example["user"]["id"]
        }
        user |= self._histories()
        request = {"user": user, "context": self._columns(example["context"]), "time": self.time}
        return request | {"candidates": self._candidates()}

    def _columns(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Some of the columns, drawn anew; one in ten is left out."""
        return {
            column: self._value(column, value) for column, value in columns.items() if self.rng.random() < 0.9
        }

    def _value(self, column: str, value: Any = None) -> Any:
        """A value of a column: now and then null, or one that training did not know."""
        name = self.by_column.get(column)
        if name is None or self.rng.random() < 0.1:
            return None if name is not None else value
        feature, encoder = self.schema.columns()[name], self.fitted.get(name)
        known = value if value is not None else feature.sample(encoder, self.rng)
        return known if known is not None and self.rng.random() < 0.8 else self._unknown(feature, name)

    def _unknown(self, feature: ColumnFeature, name: str) -> Any:
        if feature.storage == "vector":
            return (
                feature.sample(None, self.rng)
                if self.rng.random() < 0.8
                else [0.0] * feature.vector.dimension
            )
        dtype = feature.dtype(self.fitted.get(name))
        listed = isinstance(dtype, pl.List)
        values = [self._single(dtype.inner if isinstance(dtype, pl.List) else dtype) for _ in range(3)]
        return values[: self.rng.integers(4)] if listed else values[0]

    def _single(self, dtype: Any) -> Any:
        if dtype == pl.String:
            return WORDS[self.rng.integers(len(WORDS))]
        if dtype == pl.Float64:
            return round(float(self.rng.normal() * 10 ** self.rng.integers(4)), 3)
        return int(self.rng.integers(-50, 10**6))

    def _item(self) -> Any:
        """The id of an item, one in ten unknown."""
        if self.rng.random() < 0.9:
            return self.ids[int(self.rng.integers(len(self.ids)))]
        return self._new_item()

    def _new_item(self) -> Any:
        """The id of an item that the bundle does not know."""
        number = int(self.rng.integers(2**40, 2**41))
        return f"new {number}" if self.ids.dtype == pl.String else number

    def _listed(self, name: str) -> Any:
        """A value of a list, one in ten unknown."""
        feature, encoder = self.schema.columns()[name], self.fitted[name]
        known = feature.sample(encoder, self.rng)
        if known and self.rng.random() < 0.9:
            return known[int(self.rng.integers(len(known)))]
        dtype = feature.dtype(encoder)
        return self._single(dtype.inner if isinstance(dtype, pl.List) else dtype)

    def _histories(self) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, history in self.schema.histories().items():
            count = int(self.rng.integers(MOST_EVENTS)) if self.rng.random() < 0.9 else 0
            items = [self._listed(name) if history.values else self._item() for _ in range(count)]
            times = sorted(self.time - self.rng.integers(0, 9 * (DAY // MILLISECOND), count))
            beside = {
                self.schema.column(n): [self._value(self.schema.column(n)) for _ in items]
                for n in self.schema.parallels_of(name)
            }
            for column, values in beside.items():
                beside[column] = [v[0] if isinstance(v, list) and v else None for v in values]
            if history.lists is None:
                timed = name in self.manifest.timed_histories
                columns[name] = [
                    {"id": item}
                    | ({"time": int(times[n])} if timed else {})
                    | {c: v[n] for c, v in beside.items()}
                    if timed or beside
                    else item
                    for n, item in enumerate(items)
                ]
                continue
            columns[history.lists.column] = items
            columns |= {history.lists.times: [int(t) for t in times]} if history.lists.times else {}
            columns |= beside
        return columns

    def _candidates(self) -> list[Any]:
        columns = self.manifest.request_columns
        chosen = self.rng.choice(
            len(self.ids), min(int(self.rng.integers(1, 101)), len(self.ids)), replace=False
        )
        known = self.ids.gather(chosen).to_list()
        ids = [*known, *(self._new_item() for _ in range(self.rng.integers(3)))]
        candidates = []
        for n, id_ in enumerate(ids):
            pair = {column: self._value(column) for column in columns.cross if self.rng.random() < 0.9}
            pair |= {column: round(float(self.rng.random()), 3) for column in columns.values}
            if n >= len(known) and self.rng.random() < 0.8:
                pair |= {c: self._value(c) for c in columns.item if c not in self.manifest.item_columns}
                pair |= {c: round(float(self.rng.random()), 3) for c in self.manifest.item_columns}
            candidates.append({"id": id_} | pair if pair else id_)
        return candidates
