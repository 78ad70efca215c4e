"""The histories of one request: their codes, and what is known of their items.

Letters: L events of a history, the newest last.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Hashes, Ints, Longs
from corank.data.packed_history import add_histories
from corank.features.encoders import Encoders
from corank.features.encoding import MISSING, Encoded
from corank.features.history import HistoryNeeds, recency_weights
from corank.features.operands import Operands, gather_history_operands
from corank.features.vocabulary import Hash, Vocabulary, hash_values, to_identifiers
from corank.serving.funnel.request import history, series, whole


@dataclass(frozen=True)
class RequestHistory:
    """A history of one request."""

    codes: Ints  # (L,)
    place: Longs
    """(L,) Of its items, −1 for one that is not among them."""
    keys: Hashes
    """(L,) Where some cross compares its ids, else (0,)."""
    weight: Floats | None
    """(L,) Where events do not count alike."""


@dataclass(frozen=True)
class HistoryItems:
    """What the histories of a request need of their items, which are gathered once."""

    items: dict[str, Ragged]
    """By history the rows of its items, −1 for an item without one."""
    rows: Rows
    operands: Operands


class HistoryEncoder:
    """Reads the histories of requests for one bundle."""

    def __init__(self, encoders: Encoders, attended: Collection[str]) -> None:
        """`attended`: the histories that some stage attends to."""
        self.schema, self._encoders, self.attended = encoders.schema, encoders, attended
        self._needs = HistoryNeeds.of(self.schema)
        self.needed = bool(self._needs.records or self._needs.weighted)
        """Whether codes alone are not enough."""

    def past(self, name: str, events: Any, items: LayeredItems, time: int) -> RequestHistory:
        """A history as the request tells it, cut to its length. Raises RequestError."""
        settings = self.schema.histories()[name]
        ids, times = history(name, events, settings.half_life is not None)
        ids, times = ids[-settings.last :], times[-settings.last :]
        encoder = self._encoders.fitted[self.schema.table_of(name)]
        assert isinstance(encoder, Vocabulary | Hash)
        found = ids and (name in self._needs.records or name in self.attended)
        keyed = name in self._needs.compared
        codes: Ints
        if not encoder.text and not keyed and (numbers := whole(ids)) is not None:
            codes = encoder.codes_of_numbers(numbers)
        else:
            values = series(name, ids, f"user.{name}") if ids else pl.Series(name, [], dtype=pl.Null)
            codes = encoder.codes(values, name)
        weight = None
        if settings.half_life:
            weight = recency_weights(
                np.maximum(time - np.array(times, dtype=np.int64), 0), settings.half_life
            )
        return RequestHistory(
            codes,
            find(items, ids, f"user.{name}") if found else np.full(len(ids), -1),
            hash_values(values, name) if keyed else np.empty(0, dtype=np.uint64),
            weight,
        )

    def of(self, items: LayeredItems, past: Mapping[str, RequestHistory]) -> HistoryItems:
        looked_up = [name for name in self._needs.records if name in past]
        places = [past[name].place for name in looked_up]
        place = np.concatenate([np.empty(0, dtype=np.int64), *places])
        row = np.where(place < 0, -1, np.cumsum(place >= 0) - 1)
        known = place[place >= 0]
        ends = np.cumsum([0, *map(len, places)])
        local = {name: row[a:b] for name, a, b in zip(looked_up, ends, ends[1:], strict=False)}
        return HistoryItems(
            {
                name: Ragged.from_lengths(
                    np.array([len(h.codes)]), local.get(name, np.full(len(h.codes), -1)), h.weight
                )
                for name, h in past.items()
            },
            items.rows(known),
            items.operands(known),
        )

    def operands(
        self, recalled: HistoryItems | None, past: Mapping[str, RequestHistory]
    ) -> dict[str, Ragged]:
        """The operands of derived features that are of histories."""
        found: dict[str, Ragged] = {}
        if recalled is not None:
            found = gather_history_operands(
                self.schema, recalled.items, recalled.operands, self._needs.for_attributes
            )
        # an item that the bundle lacks is still the item that the user has seen
        return found | {
            name: Ragged.from_lengths(np.array([len(past[name].keys)]), past[name].keys)
            for name in self._needs.compared
        }

    def lists(self, past: Mapping[str, RequestHistory]) -> dict[str, Encoded]:
        """The codes of each history; an attribute's are put in its place by `with_past`."""
        attributes = {name: history for name, (history, _) in self.schema.attributes().items()}
        owner = {name: name for name in past} | attributes
        return {
            name: Ragged.from_lengths(np.array([len(past[history].codes)]), past[history].codes)
            for name, history in owner.items()
        }

    def rows(self, rows: Rows, recalled: HistoryItems | None) -> Rows:
        """The query's row with the attributes of its histories' items, and what each event weighs."""
        return rows if recalled is None else add_histories(self.schema, rows, recalled.items, recalled.rows)

    def attended_rows(self, items: LayeredItems, past: Mapping[str, RequestHistory]) -> dict[str, Rows]:
        return {name: self._events(items, name, past[name]) for name in self.attended}

    def _events(self, items: LayeredItems, name: str, past: RequestHistory) -> Rows:
        """The records of a history's items; one that has none is its id's code, and all else missing."""
        placed, unknown = self.schema.row_features("item"), np.flatnonzero(past.place < 0)
        known = items.rows(past.place[past.place >= 0])
        none = Rows(
            np.full((len(unknown), len(placed.ids)), MISSING, dtype=np.int32),
            np.zeros((len(unknown), placed.width), dtype=np.float32),
            tuple(
                Ragged.from_lengths(np.zeros(len(unknown), np.int32), np.empty(0, np.int32))
                for _ in placed.lists
            ),
        )
        none.ids[:, placed.ids.index(self.schema.table_of(name))] = past.codes[unknown]
        if not len(unknown):
            return known
        order = np.argsort(np.concatenate((np.flatnonzero(past.place >= 0), unknown)))
        return known.compact().concat(none).take(order)


def find(items: LayeredItems, ids: list[Any], where: str, numbers: Longs | None = None) -> Longs:
    """The place of each item, −1 where it is not: (n,); `numbers` are the ids, if known to be such.

    Raises RequestError.
    """
    if not items.text and (numbers is not None or (numbers := whole(ids)) is not None):
        return items.find_numbers(numbers)
    try:
        return items.find(to_identifiers(series("id", ids, where), f"{where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None
