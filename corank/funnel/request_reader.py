"""Reads a request: the user, the context, the histories and the candidates, as far as no item is looked up.

What the row and derived features take of a value of the user or the context is cached: values repeat, and a column of
one value costs more to build than a whole query that is cached.

Letters: L events of a history, the newest last.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import copysign
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Longs
from corank.features.encoders import Encoders
from corank.features.encoding import as_int64, hash_values
from corank.features.feature_kind import Side
from corank.features.history import History, ListedEvents, ListParts, Values, split_aligned, split_plain
from corank.features.history_events import Events, HistoryNeeds, log_ages, recency_weights
from corank.features.row_encoder import RowEncoder
from corank.funnel.ranking import EncodedValue, Ranking, RequestHistory, RequestWarning
from corank.funnel.request import NumberIds, Request, parse_time, read_nulls, refuse_unknown_column, to_series

USER_IDS = {"text": (str,), "whole numbers": (int,), None: (int, str)}
"""The types that an id of a user may have, by what the log has."""
_NO_TIMES, _NO_KEYS = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)


class RequestReader:
    """Reads requests to one bundle. Safe to share between threads."""

    def __init__(self, manifest: BundleManifest, encoders: Encoders, text: bool, retrieves: bool) -> None:
        """
        Args:
            manifest: of the bundle.
            encoders: of the bundle.
            text: whether ids of items are text.
            retrieves: whether the bundle finds candidates for a request that brings none.
        """
        self.schema, self._encoders, self._data = encoders.schema, encoders, manifest.data
        self._text, self._retrieves = text, retrieves
        self._user_column, self._user_ids = manifest.user, manifest.user_ids
        columns, users = manifest.request_columns, set(self.schema.column_names(side="user"))
        self._side_columns = {
            "user": frozenset((users & {manifest.user}).union(columns.user, columns.histories)),
            "context": frozenset(columns.context),
        }
        rows = RowEncoder(encoders, "query")
        self._columns, self._values = rows.columns, QueryValues(rows)
        self._limits = number_limits(encoders, ("user", "context"))
        self._histories, self._needs = self.schema.histories(), HistoryNeeds.of(self.schema)
        self._attended, self._timed = manifest.attended, manifest.timed_histories
        self._looked_up = {*self._needs.records, *self._attended}
        self._beside = {
            name: {feature: self.schema.column(feature) for feature in self.schema.parallels_of(name)}
            for name in self._histories
        }
        """By history, the features that are attributes of its events, and their columns."""

    def read(self, one: Ranking, query: bool = True) -> None:
        """Read a request, of which nothing or the `query` was read. Raises RequestError, which names the field."""
        if query:
            self.read_query(one)
        one.candidates, one.numbers, one.columns = self._read_candidates(one.request)
        one.unknown = []
        one.found = [warning for history in one.histories.values() for warning in history.warnings]

    def read_query(self, one: Ranking) -> None:
        """Read what a request says of its query, for which its candidates need not be known. Raises RequestError."""
        request, one.prepared_by, one.missing, one.clipped = one.request, None, [], {}
        one.time, columns = request.time_ms, self._read_columns(request, one.missing)
        count_clipped(self._limits, columns.keys(), [columns], one.clipped)
        try:
            one.histories = {
                name: self.read_history(name, request.user, one.time) for name in self._histories
            }
        except DataError as error:
            raise RequestError(str(error)) from None
        one.values = self._encode_values(columns)

    def _read_columns(self, request: Request, missing: list[str]) -> dict[str, Any]:
        """The columns of the user and the context by name; those that the request lacks are added to `missing`.

        Raises RequestError for a column that the bundle does not know.
        """
        columns: dict[str, Any] = {}
        user = {self._user_column if key == "id" else key: value for key, value in request.user.items()}
        id_ = user.get(self._user_column)
        # one of another type than the log's would be logged, and trained on, as it is
        kind = int if type(id_) is float and id_.is_integer() else type(id_)
        if id_ is not None and kind not in USER_IDS[self._user_ids]:
            expected = self._user_ids or "a whole number or text"
            raise RequestError(f"user.id: expected {expected}, as in the log; received {id_!r:.100}")
        for side, values in (("user", user), ("context", request.context)):
            wanted = self._side_columns[side]
            if values.keys() != wanted:
                for column in values.keys() - wanted - {self._user_column}:
                    refuse_unknown_column(side, column, wanted)
                absent = wanted - values.keys()
                missing += sorted(f"{side}.{'id' if c == self._user_column else c}" for c in absent)
            columns |= read_nulls(values, self._data.nulls) if self._data.nulls else values
        return columns

    def read_history(self, name: str, user: Mapping[str, Any], time: int) -> RequestHistory:
        """Read a history, its last events only.

        Args:
            name: of the history.
            user: what the request says of the user.
            time: of the request, ms since 1970 UTC.

        Raises RequestError, which names the event, or DataError for lists that cannot be read.
        """
        settings, beside, needs = self._histories[name], self._beside[name], self._needs
        warnings = list[RequestWarning]()
        if settings.lists is None:
            where, then = f"user.{name}", time if name in self._timed else None
            events, warnings = read_events(name, user.get(name), then, beside.values(), settings.last)
        else:
            where, events = f"user.{settings.lists.column}", self._read_lists(name, settings, user, time)
        items, columns, codes = events.items, events.parallel, self._encoders.codes
        ids = items.to_list() if isinstance(items, pl.Series) else items
        age = _NO_TIMES if events.times is None else time - events.times
        return RequestHistory(
            codes(name, items),
            (where, ids if name in self._looked_up else []),
            hash_values(items, name) if name in needs.compared else _NO_KEYS,
            recency_weights(np.maximum(age, 0), settings.half_life) if settings.half_life else None,
            log_ages(age) if self._attended.get(name) else None,
            warnings,
            {n: codes(n, columns[column]) for n, column in beside.items()},
            {n: hash_values(columns[column], n) for n, column in beside.items() if n in needs.beside},
            age,
        )

    def _read_lists(self, name: str, settings: History, user: Mapping[str, Any], time: int) -> ListedEvents:
        """Read a history that columns list: cut by the code that packing uses. Raises RequestError, DataError."""
        parts, lists = dict[str, ListParts](), settings.lists
        assert lists is not None
        for column in self.schema.column_names([name, *self._beside[name]]):
            plain = split_plain(user.get(column), lists.separator)
            if plain is None:
                values = to_series(column, [user[column]], f"user.{column}")
                plain = split_aligned(values, lists.separator, "user")
            parts[column] = plain
        listed = ListedEvents.read(lists, parts, self._text, lambda n: "user")
        events = Events.of_times(listed.times, np.array([0, len(listed.items)]))
        (start,), (length,) = events.cut(settings, np.zeros(1, np.int64), np.array([time]), self._data)
        return listed.take(length, np.arange(start, start + length))

    def _encode_values(self, columns: Mapping[str, Any]) -> list[EncodedValue]:
        """Encode the values of the user and the context. Raises RequestError, which names the field."""
        values, encode = [], self._values.encode
        for name, column in self._columns.items():
            try:
                values.append(encode(name, columns.get(column)))
            except DataError as error:
                side = "user" if column in self._side_columns["user"] else "context"
                field = "user.id" if column == self._user_column else f"{side}.{column}"
                raise RequestError(f"{field}: {error}") from None
        return values

    def _read_candidates(self, request: Request) -> tuple[Sequence[Any], Longs | None, list[dict[str, Any]]]:
        """Read the candidates of a request, in the order given; none if they are to be retrieved.

        Returns:
            Their ids; these as an array if all are whole numbers; the columns given with each, none if none has any.

        Raises RequestError for one that has no id or is given twice.
        """
        if request.candidates is None:
            if not self._retrieves:
                raise RequestError(
                    "candidates: none are given, and the bundle has no `retrieval` to find some"
                )
            return [], None, []
        if request.where or request.retrieve:
            raise RequestError(
                "candidates: where candidates are given, nothing is retrieved; drop one of both"
            )
        ids: Any = request.candidates
        columns: list[dict[str, Any]] = []
        if type(ids) is NumberIds:
            numbers: Longs | None = ids.numbers
        else:
            numbers = as_int64(ids)
            if numbers is None and not (kinds := set(map(type, ids))) <= {int, str}:
                ids, columns = _split_columns(ids, kinds == {dict})
                numbers = as_int64(ids)
        if _repeats(ids, numbers):
            ((twice, _),) = Counter(ids).most_common(1)
            raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
        return ids, numbers, columns


NUMBERS = (int, float)
NumberLimits = list[tuple[str, str, float, float]]
"""The ranges of training of some columns' numbers: `SIDE.COLUMN`, the column, and both ends."""


def number_limits(encoders: Encoders, sides: Collection[Side]) -> NumberLimits:
    """The ranges of training of the columns of some sides."""
    schema, limits = encoders.schema, dict[str, tuple[str, str, float, float]]()
    for name, feature in schema.columns().items():
        encoder, column = encoders.fitted.get(name), schema.column(name)
        if feature.is_input and feature.side in sides and encoder is not None and encoder.limits is not None:
            named = f"{feature.side}.{column}"
            limits[named] = (named, column, *encoder.limits)
    return [*limits.values()]


def count_clipped(
    limits: NumberLimits, given: Collection[str], rows: Sequence[Mapping[str, Any]], found: dict[str, int]
) -> None:
    """Add to `found`, by `SIDE.COLUMN`, the numbers of rows that are clipped; `given` are the columns of some row."""
    for named, column, low, high in limits:
        if column in given:
            values: list[Any] = [row.get(column) for row in rows]
            clipped = sum([type(value) in NUMBERS and not low <= value <= high for value in values])
            if clipped:
                found[named] = found.get(named, 0) + clipped


# Values of the user and the context

CACHED_VALUES = 2**16
"""Single values that are cached, of all features."""
CACHED_LISTS = 2**12
"""Lists that are cached, of all features."""
CACHED_LENGTH = 256
"""Longer texts are not cached, nor lists whose texts are longer in all."""
CACHED_ITEMS = 32
"""Longer lists are not cached."""
SINGLE = {int, bool, NoneType}
LISTED = {int, str, NoneType}


class QueryValues:
    """Encodes values of the query features of one bundle. Safe to share between threads."""

    def __init__(self, encoder: RowEncoder) -> None:
        """`encoder` is that of the query's rows."""
        self._columns, encoders = encoder.columns, encoder.encoders
        self._encoders = {name: RowEncoder(encoders, "query", (name,)) for name in self._columns}
        self._coded = frozenset(n for n in self._columns if encoders.schema.features[n].storage == "id")
        self._single = lru_cache(maxsize=CACHED_VALUES, typed=True)(self._encode)
        self._lists = lru_cache(maxsize=CACHED_LISTS)(self._encode_list)

    def encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value of a feature. What is equal but of another type is another value: 1, 1.0, true and "1".

        Raises DataError, RequestError.
        """
        kind = type(value)
        if kind is str:
            known = len(value) <= CACHED_LENGTH
        elif kind is float:
            known = value != 0 or copysign(1, value) > 0  # -0.0 equals 0.0
        elif kind is list:
            return self._lists(name, tuple(value)) if _is_short(value) else self._encode(name, value)
        else:
            known = kind in SINGLE
        return self._single(name, value) if known else self._encode(name, value)

    def _encode_list(self, name: str, values: tuple[Any, ...]) -> EncodedValue:
        return self._encode(name, list(values))

    def _encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value by the code that packing uses, as a column of one row."""
        column = self._columns[name]
        features, taken = self._encoders[name].encode({column: to_series(column, [value], "request")}, 1)
        row: Any = features[name]
        if isinstance(row, np.ndarray):
            row = int(row[0]) if name in self._coded else row.ravel()
        key, number = taken.keys.get(name), taken.numbers.get(name)
        return EncodedValue(
            row,
            None if key is None else int(key[0]),
            taken.lists.get(name),
            None if number is None else float(number[0]),
        )


def _is_short(values: list[Any]) -> bool:
    """Whether a list is cached: of few whole numbers and texts, none of which equals one of another type."""
    if len(values) > CACHED_ITEMS or not LISTED.issuperset(map(type, values)):
        return False
    return sum(len(value) for value in values if type(value) is str) <= CACHED_LENGTH


# Histories

_NOTHING: dict[str, Any] = {}
PLAIN_IDS = frozenset((int, str))
"""The types of an item's id in a request."""


def read_events(
    name: str, events: Any, time: int | None, attributes: Collection[str], last: int
) -> tuple[ListedEvents, list[RequestWarning]]:
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
    types = {*map(type, events)}
    if time is not None or not PLAIN_IDS.issuperset(types):
        objects = events
        if types != {dict}:
            objects = [event if isinstance(event, dict) else {"id": event} for event in events]
        ids = _values_of(objects, "id")
        _check_events(name, events, objects, ids, ("id", "time", *attributes))
    times, warnings, first = None, list[RequestWarning](), max(0, len(ids) - last)
    if time is not None:
        times = _read_event_times(name, events, objects)
        warnings = check_event_times(f"user.{name}", times, time) if len(times) else warnings
        times = times[first:]
    columns = {c: _to_values(name, c, _values_of(objects[first:], c)) for c in attributes}
    items = _to_values(name, name, ids[first:])
    return ListedEvents(np.array([len(items)], dtype=np.int32), items, times, columns), warnings


def _values_of(objects: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
    """What each object has in a field, None of those that lack it."""
    try:
        return [*map(itemgetter(field), objects)]
    except KeyError:
        return [one.get(field) for one in objects]


def _check_events(
    name: str,
    events: Sequence[Any],
    objects: Sequence[Mapping[str, Any]],
    ids: Sequence[Any],
    fields: Sequence[str],
) -> None:
    """Raise RequestError if an event has no id, or another field; `events` are as they were given."""
    known = {*fields}
    plain = PLAIN_IDS.issuperset(map(type, ids))
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
    if (plain := as_int64(_values_of(objects, "time"))) is not None:
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


SECONDS_FROM = 10**11
"""A request later than this, in 1973, cannot have an event in the first weeks of 1970."""
YEARS = 3650 * (DAY // MILLISECOND)
"""Times within ten years of each other, ms."""


def check_event_times(field: str, times: Longs, time: int) -> list[RequestWarning]:
    """Warn of events after the request, and of events that are not in the order of time.

    Args:
        field: of the request.
        times: of the events, ms since 1970 UTC: (L,).
        time: of the request.

    Raises RequestError for times in seconds.
    """
    first, last = int(times.min()), int(times.max())
    if time > SECONDS_FROM and first * 1000 < time + YEARS:
        # whole seconds since 1970 are milliseconds of its first weeks
        seconds = np.flatnonzero((times > 0) & (np.abs(times * 1000.0 - time) < YEARS))
        if len(seconds):
            n = int(seconds[0])
            raise RequestError(
                f"{field}.{n}.time: {times[n]} is in seconds, it seems; write milliseconds since 1970"
            )
    warnings = list[RequestWarning]()
    later = int(np.count_nonzero(times > time)) if last > time else 0
    if later:
        text = f"{field}: {later} of {len(times)} events are after the request; they count as new as can be"
        warnings.append(("future", text))
    if (times[1:] < times[:-1]).any():
        warnings.append(("order", f"{field}: events are not in the order of time, the newest last"))
    return warnings


# Candidates


def _repeats(ids: Sequence[Any], numbers: Longs | None) -> bool:
    if numbers is not None:
        # the lower halves of whole numbers are sorted in half the time, and are seldom equal where the numbers differ
        halves = numbers.astype(np.int32)
        halves.sort()
        if not np.count_nonzero(halves[1:] == halves[:-1]):
            return False
    return len(set(ids)) < len(ids)


def _split_columns(candidates: Sequence[Any], described: bool) -> tuple[list[Any], list[dict[str, Any]]]:
    """Split candidates, all of which may be `described`, into their ids, and the columns given with each."""
    rows = candidates if described else [one if isinstance(one, dict) else {"id": one} for one in candidates]
    columns: list[dict[str, Any]] = [*map(dict.copy, rows)]
    ids = [fields.pop("id", None) for fields in columns]
    if not set(map(type, ids)) <= {int, str}:
        n = next(n for n, id_ in enumerate(ids) if type(id_) not in (int, str))
        raise RequestError(
            f"candidates.{n}: needs an `id`, a whole number or text; received {candidates[n]!r}"
        )
    return ids, columns
