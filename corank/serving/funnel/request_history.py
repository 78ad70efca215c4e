"""The histories of one request: their codes, and the records of their items.

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
from corank.serving.funnel.checks.request_warnings import RequestWarning, check_event_times
from corank.serving.funnel.request import as_int64, parse_history, to_series


@dataclass(frozen=True)
class RequestHistory:
    """One history of a request."""

    codes: Ints
    """Codes of its item ids: (L,)."""
    positions: Longs
    """Positions of its items in the catalogue, −1 for an unknown item: (L,)."""
    keys: Hashes
    """Hashes of its item ids: (L,), if some cross compares them; else (0,)."""
    weight: Floats | None
    """Weights of its events: (L,); None if all weigh the same."""
    warnings: tuple[RequestWarning, ...] = ()


@dataclass(frozen=True)
class HistoryItems:
    """The records of the items of all histories of a request, gathered once."""

    items: dict[str, Ragged]
    """By history, the rows of its items in `rows`, −1 for an unknown item."""
    rows: Rows
    operands: Operands


class HistoryEncoder:
    """Encodes the histories of requests to one bundle."""

    def __init__(self, encoders: Encoders, attended: Collection[str]) -> None:
        """`attended` names the histories that some stage attends to."""
        self.schema, self._encoders, self.attended = encoders.schema, encoders, attended
        self._needs = HistoryNeeds.of(self.schema)
        self.needs_items = bool(self._needs.records or self._needs.weighted)
        """Whether the query needs more than the codes of histories."""

    def encode(self, name: str, events: Any, items: LayeredItems, time: int) -> RequestHistory:
        """Encode a history, its last events only.

        Args:
            name: of the history.
            events: as the request gives them.
            items: the catalogue.
            time: of the request, ms since 1970 UTC.

        Raises RequestError, which names the event.
        """
        settings = self.schema.histories()[name]
        ids, times = parse_history(name, events, settings.half_life is not None)
        warnings = self._check_times(name, times, time)
        ids, times = ids[-settings.last :], times[-settings.last :]
        encoder = self._encoders.fitted[self.schema.table_of(name)]
        assert isinstance(encoder, Vocabulary | Hash)
        found = ids and (name in self._needs.records or name in self.attended)
        keyed = name in self._needs.compared
        codes: Ints
        if not encoder.text and not keyed and (numbers := as_int64(ids)) is not None:
            codes = encoder.codes_of_numbers(numbers)
        else:
            values = to_series(name, ids, f"user.{name}") if ids else pl.Series(name, [], dtype=pl.Null)
            codes = encoder.codes(values, name)
        weight = None
        if settings.half_life:
            weight = recency_weights(
                np.maximum(time - np.array(times, dtype=np.int64), 0), settings.half_life
            )
        return RequestHistory(
            codes,
            find_items(items, ids, f"user.{name}") if found else np.full(len(ids), -1),
            hash_values(values, name) if keyed else np.empty(0, dtype=np.uint64),
            weight,
            warnings,
        )

    def _check_times(self, name: str, times: list[int], time: int) -> tuple[RequestWarning, ...]:
        """Check the times of events. Raises RequestError."""
        try:
            return check_event_times(f"user.{name}", np.array(times, dtype=np.int64), time) if times else ()
        except OverflowError:
            raise RequestError(f"user.{name}: a time is beyond 64 bits") from None

    def gather(self, items: LayeredItems, histories: Mapping[str, RequestHistory]) -> HistoryItems:
        """Gather the records of the items of histories."""
        looked_up = [name for name in self._needs.records if name in histories]
        by_history = [histories[name].positions for name in looked_up]
        positions = np.concatenate([np.empty(0, dtype=np.int64), *by_history])
        row = np.where(positions < 0, -1, np.cumsum(positions >= 0) - 1)
        known = positions[positions >= 0]
        ends = np.cumsum([0, *map(len, by_history)])
        local = {name: row[a:b] for name, a, b in zip(looked_up, ends, ends[1:], strict=False)}
        return HistoryItems(
            {
                name: Ragged.from_lengths(
                    np.array([len(h.codes)]), local.get(name, np.full(len(h.codes), -1)), h.weight
                )
                for name, h in histories.items()
            },
            items.rows(known),
            items.operands(known),
        )

    def operands(
        self, gathered: HistoryItems | None, histories: Mapping[str, RequestHistory]
    ) -> dict[str, Ragged]:
        """The operands of derived features that come from histories."""
        found: dict[str, Ragged] = {}
        if gathered is not None:
            found = gather_history_operands(
                self.schema, gathered.items, gathered.operands, self._needs.for_attributes
            )
        # an item that the bundle lacks is still an item of the history
        return found | {
            name: Ragged.from_lengths(np.array([len(histories[name].keys)]), histories[name].keys)
            for name in self._needs.compared
        }

    def codes(self, histories: Mapping[str, RequestHistory]) -> dict[str, Encoded]:
        """The codes of each history; for an attribute of a history those of its items, which `complete` replaces."""
        attributes = {name: history for name, (history, _) in self.schema.attributes().items()}
        owner = {name: name for name in histories} | attributes
        return {
            name: Ragged.from_lengths(np.array([len(histories[history].codes)]), histories[history].codes)
            for name, history in owner.items()
        }

    def complete(self, rows: Rows, gathered: HistoryItems | None) -> Rows:
        """The query's row with the attributes of its histories' items, and the weights of their events."""
        return rows if gathered is None else add_histories(self.schema, rows, gathered.items, gathered.rows)

    def attended_rows(self, items: LayeredItems, histories: Mapping[str, RequestHistory]) -> dict[str, Rows]:
        """By attended history, the rows of its items: (L)."""
        return {name: self._event_rows(items, name, histories[name]) for name in self.attended}

    def _event_rows(self, items: LayeredItems, name: str, history: RequestHistory) -> Rows:
        """The records of a history's items; an unknown item has the code of its id, and nothing else."""
        placed, unknown = self.schema.row_features("item"), np.flatnonzero(history.positions < 0)
        known = items.rows(history.positions[history.positions >= 0])
        none = Rows(
            np.full((len(unknown), len(placed.ids)), MISSING, dtype=np.int32),
            np.zeros((len(unknown), placed.width), dtype=np.float32),
            tuple(
                Ragged.from_lengths(np.zeros(len(unknown), np.int32), np.empty(0, np.int32))
                for _ in placed.lists
            ),
        )
        none.ids[:, placed.ids.index(self.schema.table_of(name))] = history.codes[unknown]
        if not len(unknown):
            return known
        order = np.argsort(np.concatenate((np.flatnonzero(history.positions >= 0), unknown)))
        return known.compact().concat(none).take(order)


def find_items(items: LayeredItems, ids: list[Any], where: str, numbers: Longs | None = None) -> Longs:
    """Look items up in the catalogue.

    Args:
        items: the catalogue.
        ids: n item ids.
        where: the field of the request, for the error.
        numbers: the ids as an array, if they are known to be whole numbers.

    Returns:
        Positions: (n,), −1 for an unknown item.

    Raises RequestError if the ids are of another type than the catalogue's.
    """
    if not items.text and (numbers is not None or (numbers := as_int64(ids)) is not None):
        return items.find_numbers(numbers)
    try:
        return items.find(to_identifiers(to_series("id", ids, where), f"{where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None
