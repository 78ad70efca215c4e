"""Random requests that a funnel can rank: an example for those who have none at hand, and many for test cases.

An example is of values that the bundle knows. Test cases have some that it does not know, and lack some.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.manifest import BundleManifest
from corank.core.time import DAY, MILLISECOND, now_ms
from corank.features.feature_kind import ColumnFeature
from corank.features.schema import plain_columns
from corank.funnel.funnel import Funnel

CANDIDATES, EVENTS = 100, 5
"""Number of candidates, and of events of a history."""
HOUR = 3_600_000
"""Milliseconds between two events."""


def make_example(funnel: Funnel, rng: np.random.Generator) -> dict[str, Any]:
    """Make a request of a random user, with every column; null where the bundle knows no value.

    Returns:
        The fields of a `Request`, for JSON.
    """
    manifest, schema, now = funnel.manifest, funnel.schema, now_ms()
    fitted = funnel.request_encoder.encoders.fitted
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    items = ids.gather(rng.choice(len(ids), min(CANDIDATES, len(ids)), replace=False)).to_list()
    sides: dict[str, dict[str, Any]] = {"user": {}, "context": {}}
    for name, feature in plain_columns(schema, "query").items():
        sides[feature.side][schema.column(name)] = feature.sample(fitted.get(name), rng)
    user = {"id": sides["user"].pop(manifest.user, None)} | sides["user"]
    for name, history in schema.histories().items():
        events = items[:EVENTS]
        if history.values:
            events = schema.columns()[name].sample(fitted[name], rng) or []
        times = [now - HOUR * (len(events) - n) for n in range(len(events))]
        parallel = schema.column_names(schema.parallels_of(name)) if history.lists else []
        user |= _write_history(manifest, name, events, times, {c: [None] * len(events) for c in parallel})
    columns = manifest.request_columns
    pair: dict[str, Any] = dict.fromkeys(columns.cross) | dict.fromkeys(columns.values, 1.0)
    return {
        "user": user,
        "context": sides["context"],
        "candidates": [{"id": item} | pair for item in items] if pair else items,
    }


def _write_history(
    manifest: BundleManifest, name: str, events: list[Any], times: list[int], beside: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """A history as a request has it: one column of events, or a column of each list."""
    lists = manifest.declared.histories()[name].lists
    if lists is not None:
        return {**beside, lists.column: events} | ({lists.times: times} if lists.times else {})
    timed = name in manifest.timed_histories
    if not timed and not beside:
        return {name: events}
    objects: list[dict[str, Any]] = [{"id": event} for event in events]
    for n, one in enumerate(objects):
        one |= {"time": times[n]} if timed else {}
        one |= {column: values[n] for column, values in beside.items()}
    return {name: objects}


TIME = 1_777_478_400_000
"""Of the first request, unless the bundle's snapshots are later: 29 April 2026."""
MOST_EVENTS = 60
"""Events of a history."""
WORDS = ["", "red", "größer", "東京", "a longer text that no vocabulary has", "🙂"]


def draw_requests(funnel: Funnel, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Draw requests, the same for a seed."""
    rng = np.random.default_rng(seed)
    begin = max([TIME, *funnel.manifest.priors.values()])
    draw = _Draw(funnel, rng)
    for n in range(count):
        yield draw.request(begin + n * 1_234_567)


class _Draw:
    """Draws requests to one bundle."""

    def __init__(self, funnel: Funnel, rng: np.random.Generator) -> None:
        self.funnel, self.rng = funnel, rng
        self.schema, self.manifest = funnel.schema, funnel.manifest
        self.fitted = funnel.request_encoder.encoders.fitted
        self.ids = funnel.request_encoder.items.layers[0].records.ids.values
        self.by_column = {self.schema.column(n): n for n in self.schema.columns()}

    def request(self, time: int) -> dict[str, Any]:
        """Draw a request of a time, ms since 1970 UTC."""
        example = make_example(self.funnel, self.rng)
        id_ = {"id": example["user"].pop("id")}
        user = self._columns(example["user"]) | id_ | self._histories(time)
        request = {"user": user, "context": self._columns(example["context"]), "time": time}
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

    def _text(self, column: str) -> Any:
        """A value of a column of candidates; a list as text if tables have text: one request has one of the two."""
        value = self._value(column)
        if isinstance(value, list):
            return self.schema.columns()[self.by_column[column]].to_table(value)
        return value

    def _unknown(self, feature: ColumnFeature, name: str) -> Any:
        if feature.storage == "vector":
            zeros = [0.0] * feature.vector.dimension
            return feature.sample(None, self.rng) if self.rng.random() < 0.8 else zeros
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

    def _histories(self, time: int) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, history in self.schema.histories().items():
            count = int(self.rng.integers(MOST_EVENTS)) if self.rng.random() < 0.9 else 0
            events = [self._listed(name) if history.values else self._item() for _ in range(count)]
            times = sorted(time - self.rng.integers(0, 9 * (DAY // MILLISECOND), count))
            beside = {}
            for column in self.schema.column_names(self.schema.parallels_of(name)):
                values = [self._value(column) for _ in events]
                beside[column] = [v[0] if isinstance(v, list) and v else None for v in values]
            columns |= _write_history(self.manifest, name, events, [int(t) for t in times], beside)
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
            pair = {column: self._text(column) for column in columns.cross if self.rng.random() < 0.9}
            pair |= {column: round(float(self.rng.random()), 3) for column in columns.values}
            if n >= len(known) and self.rng.random() < 0.8:
                pair |= {c: self._text(c) for c in columns.item if c not in self.manifest.item_columns}
                pair |= {c: round(float(self.rng.random()), 3) for c in self.manifest.item_columns}
            candidates.append({"id": id_} | pair if pair else id_)
        return candidates
