"""The histories of requests: their codes, and the records of their items.

The items that requests name, as candidates and in histories, are looked up in the catalogue at once.

Letters: R requests · L events of a history, the newest last · E events of R requests, one request after the other.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.types import Floats, Hashes, Ints, Longs
from corank.data.packed.history import add_histories, unknown_item_rows, with_attributes
from corank.features.encoders import Encoders
from corank.features.encoding import as_int64, hash_values, to_identifiers
from corank.features.history import (
    EventAge,
    History,
    ListedEvents,
    ListParts,
    Values,
    split_aligned,
    split_plain,
)
from corank.features.history_events import Events, HistoryNeeds, log_ages, recency_weights
from corank.features.history_operands import (
    average_history_vectors,
    gather_event_ages,
    gather_history_operands,
)
from corank.features.operands import Operands
from corank.serving.funnel.request import RequestWarning, check_event_times, parse_time, to_series

T = TypeVar("T", bound=np.generic)
_NO_TIMES, _NO_KEYS = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
_NO_WARNINGS: tuple[RequestWarning, ...] = ()
_NOTHING: dict[str, Any] = {}
PLAIN_IDS = frozenset((int, str))
"""The types of an item's id in a request."""
_NO_OPERANDS = Operands(0, {}, {}, {})


class WantedItems(NamedTuple):
    """Items that a request names, to be looked up."""

    where: str
    """The field of the request, for the error."""
    ids: Sequence[Any]
    numbers: Longs | None = None
    """The ids as an array, if they are known to be whole numbers."""

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ids) if self.numbers is None else len(self.numbers)


def find_items(items: LayeredItems, wanted: Sequence[WantedItems]) -> Longs:
    """Look the items of several lists up in the catalogue, all at once: positions, those of one list after the other.

    An unknown item has −1. Raises RequestError if the ids of a list are of another type than the catalogue's.
    """
    if items.text:
        lists = [one.ids for one in wanted if one.numbers is None and isinstance(one.ids, list)]
        texts = [*chain.from_iterable(lists)]
        if len(lists) == len(wanted) and set(map(type, texts)) == {str}:
            positions = items.find_texts(texts)
            unknown = [texts[n] for n in np.flatnonzero(positions < 0)]
            with suppress(RequestError):
                if unknown:
                    to_series("id", unknown, "")  # raises for what is no text of UTF-8
                return positions
    else:
        numbers = [_NO_TIMES if one.numbers is None else one.numbers for one in wanted]
        if all(one.numbers is not None or not len(one.ids) for one in wanted):
            return items.find_numbers(join_arrays(numbers))
    return join_arrays([_find_alone(items, one) for one in wanted])


def join_arrays(arrays: Sequence[NDArray[T]]) -> NDArray[T]:
    """Concatenate one or more arrays, without a copy of a single one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _find_alone(items: LayeredItems, wanted: WantedItems) -> Longs:
    if wanted.numbers is None and not len(wanted.ids):
        return _NO_TIMES
    ids = wanted.ids if wanted.numbers is None else wanted.numbers.tolist()
    try:
        return items.find(to_identifiers(to_series("id", [*ids], wanted.where), f"{wanted.where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{wanted.where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None


class RequestHistory(NamedTuple):
    """One history of a request."""

    codes: Ints
    """Codes of its item ids: (L,)."""
    wanted: WantedItems | None
    """Its items, if anything reads their records."""
    keys: Hashes
    """Hashes of its item ids: (L,), if some cross compares them; else (0,)."""
    weight: Floats | None
    """Weights of its events: (L,); None if all weigh the same."""
    ages: Floats | None
    """Ages of its events, as `log_ages` says them: (L,); None if nobody reads them."""
    warnings: tuple[RequestWarning, ...]
    attributes: Mapping[str, Ints]
    """By feature that is `parallel_to` it, the code of each event: (L,)."""
    attribute_keys: Mapping[str, Hashes]
    """By those of them that derived features take, the hash of each event's value: (L,)."""
    age: Longs
    """Ms from each event to the request: (L,); (0,) if the times are not known."""


Histories = Mapping[str, Sequence[RequestHistory]]
"""By history that of each of R requests."""


class AttendedEvents(NamedTuple):
    """The events of a history of R requests that a stage attends to."""

    rows: Rows
    """The records of their items, and the attributes of the events: (E)."""
    lengths: Sequence[int]
    """How many each request has: (R,)."""
    ages: Floats | None
    """Of the events, as `log_ages` says them, if a stage reads them: (E,)."""


@dataclass(frozen=True)
class HistoryItems:
    """The records of the items of all histories of R requests, gathered once."""

    items: dict[str, Ragged]
    """By history, the rows of its items in `rows`, −1 for an unknown item: R lists."""
    rows: Rows
    operands: Operands


class HistoryEncoder:
    """Encodes the histories of requests to one bundle."""

    def __init__(self, encoders: Encoders, manifest: BundleManifest) -> None:
        """`encoders` and `manifest` are those of the bundle."""
        self.schema, self._encoders, self._data = encoders.schema, encoders, manifest.data
        self.attended, self._timed = manifest.attended, manifest.timed_histories
        self._needs = HistoryNeeds.of(self.schema)
        self._beside = {
            name: {feature: self.schema.column(feature) for feature in self.schema.parallels_of(name)}
            for name in self.schema.histories()
        }
        """By history, the features that are attributes of its events, and their columns."""
        self._columns = {
            name: self.schema.column_names([name, *self._beside[name]])
            for name, history in self.schema.histories().items()
            if history.lists is not None
        }
        """By history that columns list, these, and those of attributes."""
        attributes = {name: history for name, (history, _) in self.schema.attributes().items()}
        self._owners = {n: n for n in self.schema.histories()} | attributes | self.schema.parallels()
        """By list of the query that is of a history, this one."""
        items = (self.schema.of_items(name) or name for name in self._needs.for_attributes)
        self._item_operands = frozenset(items)
        self.looked_up = tuple(dict.fromkeys((*self._needs.records, *self.attended)))
        """Histories whose items are looked up."""
        self.needs_items = bool(self._needs.records or self._needs.weighted)
        """Whether the query needs more than the codes of histories."""

    def encode(self, name: str, user: Mapping[str, Any], text: bool, time: int) -> RequestHistory:
        """Encode a history, its last events only.

        Args:
            name: of the history.
            user: what the request says of the user.
            text: whether ids of items are text.
            time: of the request, ms since 1970 UTC.

        Raises RequestError, which names the event, or DataError for lists that cannot be read.
        """
        settings, beside, warnings = self.schema.histories()[name], self._beside[name], _NO_WARNINGS
        if settings.lists is None:
            where, then = f"user.{name}", time if name in self._timed else None
            events, warnings = read_events(name, user.get(name), then, beside.values(), settings.last)
        else:
            where, events = (
                f"user.{settings.lists.column}",
                self._read_lists(name, settings, user, text, time),
            )
        items, columns = events.items, events.parallel
        numbers = items if isinstance(items, np.ndarray) else None
        ids = items.to_list() if isinstance(items, pl.Series) else []
        age = _NO_TIMES if events.times is None else time - events.times
        return RequestHistory(
            self._encoders.codes(name, items),
            WantedItems(where, ids, numbers if len(items) else None) if name in self.looked_up else None,
            hash_values(items, name) if name in self._needs.compared else _NO_KEYS,
            recency_weights(np.maximum(age, 0), settings.half_life) if settings.half_life else None,
            log_ages(age) if self.attended.get(name) else None,
            warnings,
            {n: self._encoders.codes(n, columns[column]) for n, column in beside.items()},
            {n: hash_values(columns[column], n) for n, column in beside.items() if n in self._needs.beside},
            age,
        )

    def _read_lists(
        self, name: str, settings: History, user: Mapping[str, Any], text: bool, time: int
    ) -> ListedEvents:
        """Read a history that columns list: cut by the code that packing uses. Raises RequestError, DataError."""
        parts, lists = dict[str, ListParts](), settings.lists
        assert lists is not None
        for column in self._columns[name]:
            plain = split_plain(user.get(column), lists.separator)
            if plain is None:
                values = to_series(column, [user[column]], f"user.{column}")
                plain = split_aligned(values, lists.separator, "user")
            parts[column] = plain
        listed = ListedEvents.read(lists, parts, text, lambda n: "user")
        events = Events.of_times(listed.times, np.array([0, len(listed.items)]))
        (start,), (length,) = events.cut(settings, np.zeros(1, np.int64), np.array([time]), self._data)
        return listed.take(length, np.arange(start, start + length))

    def gather(
        self, items: LayeredItems, histories: Histories, positions: Mapping[str, Longs]
    ) -> HistoryItems:
        """Gather the records of the items of R requests' histories, which are at some positions: (E,) by history."""
        looked_up = [positions[name] for name in self._needs.records if name in histories]
        at = np.concatenate([_NO_TIMES, *looked_up])
        row, known = np.arange(len(at)), at >= 0
        if not known.all():
            row, at = np.where(known, np.cumsum(known) - 1, -1), at[known]
        end = np.cumsum([*map(len, looked_up)])
        rows = dict(zip(self._needs.records, np.split(row, end[:-1]), strict=False)) if looked_up else {}
        listed = {}
        for name, of in histories.items():
            codes = [one.codes for one in of]
            weights = [one.weight for one in of if one.weight is not None]
            weight = join_arrays(weights) if weights else None
            listed[name] = _lists(
                codes, rows[name] if name in rows else np.full(sum(map(len, codes)), -1), weight
            )
        return HistoryItems(listed, items.rows(at), items.operands(at, self._item_operands))

    def operands(
        self, gathered: HistoryItems | None, histories: Histories
    ) -> tuple[dict[str, Ragged], dict[str, Vectors], dict[tuple[str, EventAge], Ragged]]:
        """The operands of derived features from histories: lists, means of the vectors of items, ages of events."""
        operands: dict[str, Ragged] = {}
        vectors: dict[str, Vectors] = {}
        if gathered is not None:
            schema, items, named = self.schema, gathered.items, self._needs.for_attributes
            operands = gather_history_operands(schema, items, gathered.operands, named)
            vectors = average_history_vectors(schema, items, gathered.rows, named)
        # an item that the bundle lacks is still an item of the history
        keys = {name: [one.keys for one in histories[name]] for name in self._needs.compared}
        for name, history in self._needs.beside.items():
            keys[name] = [one.attribute_keys[name] for one in histories[history]]
        lists = operands | {name: _lists(hashes) for name, hashes in keys.items()}
        return lists, vectors, self._ages(gathered, histories) if self._needs.aged else {}

    def _ages(
        self, gathered: HistoryItems | None, histories: Histories
    ) -> dict[tuple[str, EventAge], Ragged]:
        """How old the events of operands are."""
        aged = set(self._needs.aged.values())
        events = {name: np.array([len(one.codes) for one in histories[name]]) for name in aged}
        ages = {name: join_arrays([one.age for one in histories[name]]) for name in self._needs.timed}
        items, operands = (gathered.items, gathered.operands) if gathered else ({}, _NO_OPERANDS)
        return gather_event_ages(self._needs.aged, events, ages, items, operands)

    def codes(self, histories: Histories) -> dict[str, Ragged]:
        """The codes of each history; for an attribute of a history those of its items, which `complete` replaces."""
        return {
            name: _lists([one.attributes.get(name, one.codes) for one in histories[history]])
            for name, history in self._owners.items()
        }

    def complete(self, rows: Rows, gathered: HistoryItems | None) -> Rows:
        """The queries' rows with the attributes of their histories' items, and the weights of their events."""
        return rows if gathered is None else add_histories(self.schema, rows, gathered.items, gathered.rows)

    def attended_events(
        self, items: LayeredItems, histories: Histories, positions: Mapping[str, Longs]
    ) -> dict[str, AttendedEvents]:
        """By attended history the events of R requests, whose items are at some positions: (E,) by history."""
        attended = {}
        for name in self.attended:
            of, beside = histories[name], self.schema.parallels_of(name)
            codes = [one.codes for one in of]
            rows = self._item_rows(items, name, join_arrays(codes), positions[name])
            if beside:
                columns = [join_arrays([one.attributes[n] for one in of]) for n in beside]
                rows = with_attributes(rows, np.stack(columns, axis=1))
            ages = [one.ages for one in of if one.ages is not None]
            attended[name] = AttendedEvents(rows, [*map(len, codes)], join_arrays(ages) if ages else None)
        return attended

    def _item_rows(self, items: LayeredItems, name: str, codes: Ints, positions: Longs) -> Rows:
        """The records of a history's items; an unknown item has the code of its id, and nothing else."""
        unknown = np.flatnonzero(positions < 0)
        if not len(unknown):
            return items.rows(positions)
        known = items.rows(positions[positions >= 0])
        placed, id_feature = self.schema.record_features, self.schema.table_of(name)
        none = unknown_item_rows(self.schema, placed, id_feature, codes[unknown])
        order = np.argsort(np.concatenate((np.flatnonzero(positions >= 0), unknown)))
        return known.compact().concat(none).take(order)


def _lists(
    of: Sequence[NDArray[Any]], values: NDArray[Any] | None = None, weight: Floats | None = None
) -> Ragged:
    """Make R lists, of the lengths of some arrays, and of their values unless others are given."""
    joined = join_arrays(of) if values is None else values
    if len(of) == 1:
        return Ragged.single(joined, weight)
    return Ragged.from_lengths(np.array([*map(len, of)]), joined, weight)


def read_events(
    name: str, events: Any, time: int | None, attributes: Collection[str], last: int
) -> tuple[ListedEvents, tuple[RequestWarning, ...]]:
    """Read the events that a request lists as a history: the last ones, in their order.

    Args:
        name: of the history.
        events: ids of items, or objects of `id`, `time` and attributes, the newest last; None for no events.
        time: of the request, ms since 1970 UTC, if each event needs a time.
        attributes: what else an event may have.
        last: how many are read.

    Returns:
        The events, and warnings of their times.

    Raises RequestError, which names the event.
    """
    events = [] if events is None else events
    if not isinstance(events, list):
        raise RequestError(f"user.{name}: expected a list of item ids, the newest last; received {events!r}")
    ids, objects = events, [_NOTHING] * len(events)
    if time is not None or not PLAIN_IDS.issuperset(map(type, events)):
        objects = [event if isinstance(event, dict) else {"id": event} for event in events]
        ids = [event.get("id") for event in objects]
        _check_events(name, events, objects, ("id", "time", *attributes))
    times, warnings, first = None, _NO_WARNINGS, max(0, len(ids) - last)
    if time is not None:
        times = _read_event_times(name, events, objects)
        warnings = check_event_times(f"user.{name}", times, time) if len(times) else warnings
        times = times[first:]
    columns = {c: _to_values(name, c, [event.get(c) for event in objects[first:]]) for c in attributes}
    items = _to_values(name, name, ids[first:])
    return ListedEvents(np.array([len(items)], dtype=np.int32), items, times, columns), warnings


def _check_events(
    name: str, events: Sequence[Any], objects: Sequence[Mapping[str, Any]], fields: Sequence[str]
) -> None:
    """Raise RequestError if an event has no id, or another field; `events` are as they were given."""
    known = {*fields}
    plain = PLAIN_IDS.issuperset([type(event.get("id")) for event in objects])
    if plain and known.issuperset(chain.from_iterable(objects)):
        return
    for n, event in enumerate(objects):
        if type(event.get("id")) not in PLAIN_IDS or event.keys() - known:
            expected = ", ".join(f'"{field}": …' for field in fields)
            raise RequestError(
                f"user.{name}.{n}: expected an item id, or {{{expected}}}; received {events[n]!r}"
            )


def _read_event_times(name: str, events: Sequence[Any], objects: Sequence[Mapping[str, Any]]) -> Longs:
    """Read the times of events, ms since 1970 UTC: (L,). Raises RequestError; `events` are as they were given."""
    if (plain := as_int64([event.get("time") for event in objects])) is not None:
        return plain
    times = []
    for n, event in enumerate(objects):
        if "time" not in event:
            raise RequestError(
                f'user.{name}.{n}: the times of events are needed: write {{"id": …, "time": …}}; '
                f"received {events[n]!r}"
            )
        times.append(parse_time(event["time"], f"user.{name}.{n}.time"))
    try:
        return np.array(times, dtype=np.int64)
    except OverflowError:
        raise RequestError(f"user.{name}: a time is beyond 64 bits") from None


def _to_values(history: str, column: str, values: list[Any]) -> Values:
    """Convert what events have in a column. Raises RequestError for values of mixed types."""
    numbers = as_int64(values) if values else _NO_TIMES
    return to_series(column, values, f"user.{history}") if numbers is None else numbers
