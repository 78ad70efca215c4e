"""A batch's encoded rows, as they come from packed data and before they are looked up in embedding tables."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Hashes, Index, Ints, Longs
from corank.features.input_layout import Attended, Bags


@dataclass(frozen=True)
class EventRows:
    """The events of a history that R requests see."""

    items: Rows
    """Those of distinct items, H rows."""
    events: Ragged
    """Of each request its events, as positions among these: R lists."""
    ages: Ragged | None = None
    """log2(1 + s) of each event that is s seconds older than its request: R lists; None if nobody reads it."""

    def take(self, index: Index) -> Self:
        """Select the events of some requests; the items stay as they are."""
        ages = None if self.ages is None else self.ages.take(index)
        return replace(self, events=self.events.take(index), ages=ages)


@dataclass(frozen=True)
class EncodedBatch:
    """Whole requests: R rows of the query, I of distinct items, C of snapshots and of crosses.

    Letters: R requests · C candidates · I distinct items · H distinct items of a history.
    """

    user: Ints
    """Index into `PackedDataset.users`: (R,)."""
    query: Rows
    item: Rows
    cross: Rows
    request_of: Ints
    """The request of each candidate, ascending: (C,)."""
    item_of: Ints
    """The row of `item` of each candidate: (C,)."""
    item_row: Ints
    """The row of `PackedDataset.items` of each row of `item`, ascending: (I,)."""
    ordinal: Ints
    """The item of each row of `item`, as an index into the distinct items; ascending: (I,)."""
    by_item: Bags
    """The candidates of each item: I bags."""
    level: NDArray[np.uint8]
    """The level of the log, or the source of a negative beyond it: (C,)."""
    exposed: int
    """The deepest level."""
    weight: Floats
    """(C,)"""
    labels: dict[str, Floats]
    """0, 1, or -1 where unknown: (C,)."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """Logged scores as logits, NaN where unknown: (C,)."""
    columns: dict[str, Floats] = field(default_factory=dict)
    """The data's `columns`: (C,)."""
    position: Longs | None = None
    """Position on the page, -1 where unknown: (C,)."""
    draw_order: Ints | None = None
    """Position in the drawn order of its request and level: (C,); None if all candidates are read."""
    represents: Floats | None = None
    """How many candidates of its request and level each one represents: (C,); None: one."""
    share: Floats | None = None
    """Each item row's share of the log's candidates: (I,); None: that of the batch's candidates."""
    draws: Hashes | None = None
    """The state from which losses draw for each request (`Draws.keys`): (R,); None: its number in the batch."""
    snapshot: Rows | None = None
    """Snapshot features of each candidate's item, at its request: (C); None if there are none."""
    time: Longs | None = None
    """Of the requests, ms UTC: (R,); given with `snapshot`."""
    histories: dict[Attended, EventRows] = field(default_factory=dict)
    """Of each history that is attended to."""
