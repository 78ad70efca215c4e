"""What requests of new rows see of their users' events: those that a run's packing knew, and the new ones.

Letters: E events · N candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from corank.core.hash_index import Keys
from corank.core.ragged import Ragged
from corank.core.types import Longs
from corank.data.dataset import PackedDataset
from corank.data.histories.event_tables import EventColumns
from corank.data.tables import Table
from corank.features.history import Events, History
from corank.features.row_columns import ITEM, TIME, USER
from corank.training.profile.split_rows import EXPOSED, SplitRows


@dataclass(frozen=True)
class NewHistories:
    """The events of new rows after those of packed data."""

    packed: PackedDataset
    rows: SplitRows
    """The new rows of the log."""
    events: Mapping[str, Table]
    """The tables of `data.events`."""
    begin: int
    """When new events begin, ms UTC; what the packed data has from then on is left out."""

    def cut(self, names: Sequence[str], users: pl.Series, times: Longs) -> dict[str, Ragged]:
        """Find by history the codes of the events that each request sees: (N).

        Args:
            names: histories whose events no column lists.
            users: of the requests: (N).
            times: of them, ms UTC: (N,).
        """
        histories = self.packed.schema.histories()
        ids = Keys(pl.concat([self.packed.users, users]).unique().sort())
        owners, joined, found = ids.find(users), dict[str, Events](), dict[str, Ragged]()
        for name in names:
            history = histories[name]
            if history.events not in joined:
                joined[history.events] = self._join(history, ids)
            events = joined[history.events]
            start, length = events.cut(history, owners, times, self.rows.data)
            found[name] = Ragged(start, length, events.items)
        return found

    def _join(self, history: History, ids: Keys) -> Events:
        """Sort the old events and the new ones by user and time; `ids` has all users of both."""
        old, new = self.packed.events[history.events], self._read(history)
        known = np.flatnonzero(old.times < self.begin)
        owner = np.repeat(ids.find(self.packed.users), np.diff(old.offsets))[known]
        of_new = ids.find(new[USER])
        new = new.filter(of_new >= 0)  # others are in no request that is compared
        users = np.concatenate((owner, of_new[of_new >= 0]))
        times = np.concatenate((old.times[known], new[TIME].to_numpy()))
        codes = self.packed.encoders.codes(history.of, new[ITEM])
        items = np.concatenate((old.items[known], codes))
        order = np.lexsort((times, users))
        ends = np.cumsum(np.bincount(users, minlength=len(ids)))
        items = items[order].astype(np.int32)
        return Events(items, times[order], np.append(0, ends), items)

    def _read(self, history: History) -> pl.DataFrame:
        """The new events of a history, of USER, ITEM and TIME, in the order of their table. Raises DataError."""
        if history.table is None:
            happened = (
                pl.col(EXPOSED) if history.event is None else self.rows.counts_as(history.event, "positives")
            )
            return self.rows.collect(self.rows.frame.filter(happened).select(USER, ITEM, TIME))
        table, data = self.events[history.table], self.rows.data
        columns = EventColumns.of(data.events[history.table], data, history).select(table)
        return table.collect(table.frame.select(columns).filter(pl.col(TIME) >= self.begin))
