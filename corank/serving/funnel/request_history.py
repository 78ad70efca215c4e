"""The histories of one request: their codes, and the records of their items.

The items that a request names, as candidates and in histories, are looked up in the catalogue at once.

Letters: L events of a history, the newest last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.types import Floats, Hashes, Ints, Longs
from corank.data.packed.history import add_histories, unknown_item_rows, with_attributes
from corank.features.encoders import Encoders
from corank.features.encoding import Encoded, Hash, Vocabulary, as_int64, hash_values, to_identifiers
from corank.features.history import ListedEvents, RequestEvents, Values
from corank.features.history_events import Events, History, HistoryNeeds, log_ages, recency_weights
from corank.features.operands import Operands, average_history_vectors, gather_history_operands
from corank.serving.funnel.request import RequestWarning, check_event_times, parse_history, to_series


class WantedItems(NamedTuple):
    """Items that a request names, to be looked up."""

    where: str
    """The field of the request, for the error."""
    ids: Sequence[Any] | pl.Series
    numbers: Longs | None = None
    """The ids as an array, if they are known to be whole numbers."""


def find_items(items: LayeredItems, wanted: Sequence[WantedItems]) -> list[Longs]:
    """Look the items of several lists up in the catalogue, whole numbers all at once.

    Returns:
        The positions of each list's items, −1 for an unknown item.

    Raises RequestError if the ids of a list are of another type than the catalogue's.
    """
    whole = [one.numbers for one in wanted if one.numbers is not None]
    if items.text or not whole:
        return [_find_alone(items, one) for one in wanted]
    together = items.find_numbers(whole[0] if len(whole) == 1 else np.concatenate(whole))
    positions, begin = [], 0
    for one in wanted:
        if one.numbers is None:
            positions.append(_find_alone(items, one))
        else:
            positions.append(together[begin : begin + len(one.numbers)])
            begin += len(one.numbers)
    return positions


def _find_alone(items: LayeredItems, wanted: WantedItems) -> Longs:
    if wanted.numbers is None and not len(wanted.ids):
        return np.empty(0, dtype=np.int64)
    ids = wanted.ids if wanted.numbers is None else wanted.numbers.tolist()
    try:
        if items.text and isinstance(ids, list) and set(map(type, ids)) == {str}:
            positions = items.find_texts(ids)
            unknown = [ids[n] for n in np.flatnonzero(positions < 0)]
            to_series("id", unknown, wanted.where)  # raises for what is no text of UTF-8
            return positions
        series = ids if isinstance(ids, pl.Series) else to_series("id", [*ids], wanted.where)
        return items.find(to_identifiers(series, f"{wanted.where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{wanted.where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None


_NO_TIMES, _NO_KEYS = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class RequestHistory:
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


@dataclass(frozen=True)
class HistoryItems:
    """The records of the items of all histories of a request, gathered once."""

    items: dict[str, Ragged]
    """By history, the rows of its items in `rows`, −1 for an unknown item."""
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
        self._item_operands = {self.schema.of_items(name) or name for name in self._needs.for_attributes}
        self._looked_up = frozenset((*self._needs.records, *self.attended))
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
        settings = self.schema.histories()[name]
        if settings.lists is not None:
            return self._encode_lists(name, settings, user, text, time)
        events, beside, timed = user.get(name), self._beside[name], name in self._timed
        ids, times = parse_history(name, events, timed, beside.values())
        warnings: tuple[RequestWarning, ...] = ()
        age = _NO_TIMES
        if times:
            try:
                then = np.array(times, dtype=np.int64)
            except OverflowError:
                raise RequestError(f"user.{name}: a time is beyond 64 bits") from None
            warnings, age = check_event_times(f"user.{name}", then, time), time - then
        ids, age = ids[-settings.last :], age[-settings.last :]
        encoder = self._encoders.fitted[self.schema.table_of(name)]
        assert isinstance(encoder, Vocabulary | Hash)
        numbers = as_int64(ids)
        values: pl.Series | None = None
        if numbers is not None and not encoder.text and name not in self._needs.compared:
            codes = encoder.codes_of_numbers(numbers)
        else:
            values = to_series(name, ids, f"user.{name}") if ids else pl.Series(name, [], dtype=pl.Null)
            codes = encoder.codes(values, name)
        last_events = (events or [])[-len(ids) :]
        columns = {column: _read_attribute(f"user.{name}", column, last_events) for column in beside.values()}
        wanted = WantedItems(f"user.{name}", ids, numbers)
        return self._history(name, codes, wanted, values, age, columns, warnings)

    def _history(
        self,
        name: str,
        codes: Ints,
        wanted: WantedItems,
        values: pl.Series | None,
        age: Longs,
        columns: Mapping[str, Values],
        warnings: tuple[RequestWarning, ...] = (),
    ) -> RequestHistory:
        """Put a history together.

        Args:
            name: of the history.
            codes: of its events: (L,).
            wanted: its items.
            values: the ids, if some cross compares them: (L,).
            age: of its events, in ms, if their times are known: (L,).
            columns: attributes of its events, by name: (L,).
            warnings: about its events.
        """
        half_life, beside = self.schema.histories()[name].half_life, self._beside[name]
        return RequestHistory(
            codes,
            wanted if name in self._looked_up else None,
            _NO_KEYS if values is None or name not in self._needs.compared else hash_values(values, name),
            recency_weights(np.maximum(age, 0), half_life) if half_life else None,
            log_ages(age) if self.attended.get(name) else None,
            warnings,
            {feature: self._encoders.codes(feature, columns[column]) for feature, column in beside.items()},
            {
                feature: hash_values(pl.Series(columns[column]), feature)
                for feature, column in beside.items()
                if feature in self._needs.beside
            },
        )

    def _encode_lists(
        self, name: str, settings: History, user: Mapping[str, Any], text: bool, time: int
    ) -> RequestHistory:
        """Encode a history that columns list: cut by the code that packing uses. Raises RequestError, DataError."""
        assert settings.lists is not None
        values = {column: user.get(column) for column in self._columns[name]}
        listed = RequestEvents.read_plain(settings.lists, values, text)
        if listed is None:
            series = {
                column: to_series(column, [value], f"user.{column}") for column, value in values.items()
            }
            read = ListedEvents.read(settings.lists, series, text, lambda n: "user")
            listed = RequestEvents.of(read)
        events = Events.of_times(listed.times, np.array([0, len(listed.items)]))
        (start,), (length,) = events.cut(settings, np.zeros(1, np.int64), np.array([time]), self._data)
        seen = slice(int(start), int(start + length))
        ids = listed.items[seen]
        age = _NO_TIMES if listed.times is None else time - listed.times[seen]
        columns = {column: attribute[seen] for column, attribute in listed.parallel.items()}
        where = f"user.{settings.lists.column}"
        wanted = WantedItems(where, ids) if isinstance(ids, pl.Series) else WantedItems(where, [], ids)
        compared = pl.Series(ids) if name in self._needs.compared else None
        return self._history(name, self._encoders.codes(name, ids), wanted, compared, age, columns)

    def gather(
        self,
        items: LayeredItems,
        histories: Mapping[str, RequestHistory],
        found: Mapping[str, Longs],
    ) -> HistoryItems:
        """Gather the records of the items of histories, which were found at some positions."""
        looked_up = [name for name in self._needs.records if name in histories]
        by_history = [found[name] for name in looked_up]
        positions = np.concatenate([np.empty(0, dtype=np.int64), *by_history])
        row = np.where(positions < 0, -1, np.cumsum(positions >= 0) - 1)
        known = positions[positions >= 0]
        ends = np.cumsum([0, *map(len, by_history)])
        local = {name: row[a:b] for name, a, b in zip(looked_up, ends, ends[1:], strict=False)}
        return HistoryItems(
            {
                name: Ragged.single(local[name] if name in local else np.full(len(h.codes), -1), h.weight)
                for name, h in histories.items()
            },
            items.rows(known),
            items.operands(known, self._item_operands),
        )

    def operands(
        self, gathered: HistoryItems | None, histories: Mapping[str, RequestHistory]
    ) -> tuple[dict[str, Ragged], dict[str, Vectors]]:
        """The operands of derived features that come from histories: lists, and means of the vectors of items."""
        operands: dict[str, Ragged] = {}
        vectors: dict[str, Vectors] = {}
        if gathered is not None:
            schema, items, named = self.schema, gathered.items, self._needs.for_attributes
            operands = gather_history_operands(schema, items, gathered.operands, named)
            vectors = average_history_vectors(schema, items, gathered.rows, named)
        # an item that the bundle lacks is still an item of the history
        keys = {name: histories[name].keys for name in self._needs.compared}
        keys |= {n: histories[history].attribute_keys[n] for n, history in self._needs.beside.items()}
        return operands | {n: Ragged.single(hashes) for n, hashes in keys.items()}, vectors

    def codes(self, histories: Mapping[str, RequestHistory]) -> dict[str, Encoded]:
        """The codes of each history; for an attribute of a history those of its items, which `complete` replaces."""
        return {
            name: Ragged.single(histories[history].attributes.get(name, histories[history].codes))
            for name, history in self._owners.items()
        }

    def complete(self, rows: Rows, gathered: HistoryItems | None) -> Rows:
        """The query's row with the attributes of its histories' items, and the weights of their events."""
        return rows if gathered is None else add_histories(self.schema, rows, gathered.items, gathered.rows)

    def attended_rows(
        self, items: LayeredItems, histories: Mapping[str, RequestHistory], positions: Mapping[str, Longs]
    ) -> dict[str, Rows]:
        """By attended history, its items' records at some positions, and the attributes of its events: (L)."""
        attended = {}
        for name in self.attended:
            history, beside = histories[name], self.schema.parallels_of(name)
            rows = self._item_rows(items, name, history, positions[name])
            if beside:
                rows = with_attributes(rows, np.stack([history.attributes[n] for n in beside], axis=1))
            attended[name] = rows
        return attended

    def _item_rows(self, items: LayeredItems, name: str, history: RequestHistory, positions: Longs) -> Rows:
        """The records of a history's items; an unknown item has the code of its id, and nothing else."""
        unknown = np.flatnonzero(positions < 0)
        if not len(unknown):
            return items.rows(positions)
        known = items.rows(positions[positions >= 0])
        placed, id_feature = self.schema.record_features, self.schema.table_of(name)
        none = unknown_item_rows(self.schema, placed, id_feature, history.codes[unknown])
        order = np.argsort(np.concatenate((np.flatnonzero(positions >= 0), unknown)))
        return known.compact().concat(none).take(order)


def _read_attribute(where: str, column: str, events: list[Any]) -> pl.Series:
    """Read what events have in a column: (L,). Raises RequestError."""
    values = [event.get(column) if isinstance(event, dict) else None for event in events]
    return to_series(column, values, where) if values else pl.Series(column, [], dtype=pl.Null)
