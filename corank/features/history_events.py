"""Histories of users: which events a request may know of, and what a query needs of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.arrays import read_array
from corank.core.ordering import bisect_ranges
from corank.core.time import MILLISECOND, floor_times
from corank.core.types import Floats, Hashes, Ints, Longs
from corank.features.history import EventAge, History
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

OLDEST = 60
"""Half-lives after which an event's weight falls no further, so that a list of old events still has a mean."""


@dataclass(frozen=True)
class HistoryNeeds:
    """What a query needs of its user's histories, besides the codes of their items.

    Packing, batches and requests read histories by this.
    """

    weighted: tuple[str, ...]
    """Histories whose events do not count alike."""
    attributes: tuple[str, ...]
    """Histories of whose items some feature lists an attribute."""
    operands: tuple[str, ...]
    """`HISTORY` and `HISTORY.FEATURE`, as derived features take them."""
    beside: Mapping[str, str]
    """Attributes of events that derived features take: the history of each."""
    aged: Mapping[tuple[str, EventAge], str]
    """Operands whose events' ages derived features read, and how these are measured: the history of each."""

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """The needs of all features."""
        weighted = (name for name, history in schema.histories().items() if history.half_life)
        attributes = dict.fromkeys(history for history, _ in schema.attributes().values())
        parallels = schema.parallels()
        operands = (operand for feature in schema.derived().values() for operand in feature.operands)
        beside = {operand: parallels[operand] for operand in operands if operand in parallels}
        read = (ages for feature in schema.derived().values() if (ages := feature.aged_events) is not None)
        aged = {ages: schema.events_of(ages[0]) for ages in read}
        return cls(tuple(weighted), tuple(attributes), tuple(schema.history_operands()), beside, aged)

    @cached_property
    def compared(self) -> tuple[str, ...]:
        """Histories whose item ids are looked for."""
        return tuple(name for name in self.operands if "." not in name)

    @cached_property
    def timed(self) -> frozenset[str]:
        """Histories of whose events derived features read the times."""
        return frozenset(history for (_, measure), history in self.aged.items() if measure == "time")

    @cached_property
    def for_attributes(self) -> tuple[str, ...]:
        """The operands `HISTORY.FEATURE`."""
        return tuple(name for name in self.operands if "." in name)

    @cached_property
    def for_rows(self) -> tuple[str, ...]:
        """Histories whose items the query's encoded rows need."""
        return tuple(dict.fromkeys((*self.weighted, *self.attributes)))

    @cached_property
    def for_operands(self) -> tuple[str, ...]:
        """Histories whose items derived features need."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.operands))

    @cached_property
    def records(self) -> tuple[str, ...]:
        """Histories whose items must be looked up."""
        of_operands = (name.partition(".")[0] for name in self.for_attributes)
        return tuple(dict.fromkeys((*self.attributes, *of_operands)))


@dataclass(frozen=True)
class EventParts:
    """What is kept of the events of one name: an array for each part."""

    timed: bool
    keys: bool
    """Whether hashes of the ids are kept: items that no table knows have no other."""
    attributes: Mapping[str, str]
    """By feature that is `parallel_to` one of their histories, the part that holds its codes."""
    attribute_keys: Mapping[str, str]
    """By those of them that derived features take, the part that holds hashes of the values."""

    @classmethod
    def of(cls, schema: Schema, name: str) -> Self:
        """Those of the events of a name."""
        sharing = {n: history for n, history in schema.histories().items() if history.events == name}
        first = next(iter(sharing.values()))
        listed = first.lists is not None or first.table is not None
        needs = HistoryNeeds.of(schema)
        compared = not sharing.keys().isdisjoint(needs.compared)
        beside = (feature for feature, history in schema.parallels().items() if history in sharing)
        attributes = {feature: f"attribute.{feature}" for feature in beside}
        keys = {feature: f"attribute_key.{feature}" for feature in attributes if feature in needs.beside}
        return cls(first.timed, listed and compared, attributes, keys)

    @property
    def types(self) -> dict[str, type[np.generic]]:
        """The type of each part that has a value for each event."""
        types: dict[str, type[np.generic]] = {"items": np.int32, "ordinals": np.int32}
        types |= {"times": np.int64} if self.timed else {}
        types |= {"keys": np.uint64} if self.keys else {}
        types |= dict.fromkeys(self.attributes.values(), np.int32)
        return types | dict.fromkeys(self.attribute_keys.values(), np.uint64)


@dataclass(frozen=True)
class Events:
    """E events, user by user, or list by list, the oldest first; at equal times in the order of their table."""

    items: Ints
    """Codes of the item id feature: (E,)."""
    times: Longs
    """ms since 1970 UTC: (E,), or (0,) if they are not known."""
    offsets: Longs
    """Where the events of each user, or of each list, begin, and the end: (U + 1,)."""
    ordinals: Ints
    """Index of each event's item among the distinct items, −1 for an item that the tables do not know: (E,)."""
    keys: Hashes | None = None
    """Hashes of the ids of items: (E,); None if those of the items' rows do."""
    attributes: Mapping[str, Ints] = field(default_factory=dict)
    """By feature that is `parallel_to` a history, its code of each event: (E,)."""
    attribute_keys: Mapping[str, Hashes] = field(default_factory=dict)
    """By those of them that derived features take, the hash of each event's value, 0 where missing: (E,)."""

    @classmethod
    def open(cls, folder: Path, name: str, parts: EventParts) -> Self:
        """Map events into memory: an array for each part. Raises DataError if a part is missing or damaged."""

        def part(of: str) -> NDArray[Any]:
            shape = (None,) if of in ("items", "offsets") else items.shape
            return read_array(folder / f"{name}.{of}.npy", parts.types.get(of, np.int64), shape)

        items = part("items")
        return cls(
            items,
            part("times") if parts.timed else np.empty(0, np.int64),
            part("offsets"),
            part("ordinals"),
            part("keys") if parts.keys else None,
            {feature: part(of) for feature, of in parts.attributes.items()},
            {feature: part(of) for feature, of in parts.attribute_keys.items()},
        )

    @classmethod
    def of_times(cls, times: Longs | None, offsets: Longs) -> Self:
        """Make events of which nothing is needed but when they were, to be cut: (E,), (U + 1,)."""
        none = np.empty(0, np.int32)
        return cls(none, np.empty(0, np.int64) if times is None else times, offsets, none)

    def cut(
        self, history: History, owners: NDArray[np.integer], request_times: Longs, data: DataSettings
    ) -> tuple[Longs, Ints]:
        """Find the events of a history that each request sees: start and length, (R,), (R,).

        Args:
            history: one whose events these are.
            owners: the request's user, or its list: (R,).
            request_times: ms UTC: (R,).
            data: the settings of the log.
        """
        if history.timed:
            after = history.known_after(data)
            return self.slices(owners, request_times, after, history.every, data.timezone, history.last)
        end = self.offsets[owners + 1]
        start: Longs = np.maximum(self.offsets[owners], end - history.last)
        return start, (end - start).astype(np.int32)

    def slices(
        self,
        users: NDArray[np.integer],
        request_times: Longs,
        lag: timedelta,
        every: timedelta | None,
        timezone: str,
        last: int,
    ) -> tuple[Longs, Ints]:
        """Start and length of the newest `last` events of each request's user before its cut: (R,), (R,).

        The cut is the request's time, or with `every` the last multiple of it until then, less `lag`; an
        event at the cut is not before it. `users` are indices, request times ms UTC.
        """
        cut = request_times if every is None else floor_times(request_times, every, timezone)
        first = self.offsets[users]
        end = bisect_ranges(self.times, first, self.offsets[users + 1], cut - lag // MILLISECOND)
        start = np.maximum(first, end - last)
        return start, (end - start).astype(np.int32)


def timed_histories(schema: Schema, aged: Iterable[str]) -> frozenset[str]:
    """Select the histories whose events a request gives with their times: those with a `half_life`, and `aged` ones.

    Those also of which a derived feature reads the times.

    Args:
        aged: histories of whose events some stage reads the ages.
    """
    weighted = {name for name, history in schema.histories().items() if history.half_life}
    return HistoryNeeds.of(schema).timed.union(aged, weighted)


def log_ages(age: Longs) -> Floats:
    """log2(1 + s) of events that are `age` ms older than their request, s in seconds, 0 for younger ones: (N,)."""
    return np.log2(1 + np.maximum(age, 0) / 1000).astype(np.float32)


def recency_weights(age: Longs, half_life: timedelta) -> Floats:
    """Weigh events that are `age` ms older than their request by 2 to the power of −age/half_life: (N,)."""
    # in 64 bits, then rounded: the last of 32 bits would differ from reader to reader, and processor to processor
    weights: Floats = np.exp2(-np.minimum(age / (half_life / MILLISECOND), OLDEST)).astype(np.float32)
    return weights
