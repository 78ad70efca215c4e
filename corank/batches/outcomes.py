"""Outcomes of a batch: the candidates whose label is 1, at any level, and others of their requests to set against them.

People find by another path what they know already, so that what they act on there says of an item that it is known, as
much as that it is liked. Others are therefore drawn in proportion to the rate at which their item is acted on there:
then both sides are known alike, and what sets them apart is taste.

Letters: R requests · C candidates · G groups of items · X drawn candidates.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.batches.draws import draw
from corank.batches.sampling import ITEM, Outcomes
from corank.core.types import Doubles, Index, Ints, Longs
from corank.data.packed.dataset import PackedDataset

SMOOTHING = 1.0
"""Outcomes at the mean rate that are added to those of each group."""


@dataclass(frozen=True)
class OutcomeRates:
    """How often the items of each group are acted on, in training."""

    log_rate: Doubles
    """(G,)"""
    group: Ints
    """The group of each item row."""

    @classmethod
    def count(cls, packed: PackedDataset, wanted: Outcomes) -> Self:
        """Count the outcomes of the training split."""
        group = _groups(packed, wanted.match)
        positives, known = np.zeros((2, int(group.max(initial=0)) + 1))
        for shard in packed.splits["train"]:
            label, of = np.asarray(shard.labels[wanted.label]), group[shard.item]
            positives += np.bincount(of[label > 0], minlength=len(positives))
            known += np.bincount(of[label >= 0], minlength=len(known))
        mean = max(positives.sum(), 1.0) / max(known.sum(), 1.0)
        return cls(np.log((positives + SMOOTHING) / (known + SMOOTHING / mean)), group)


def _groups(packed: PackedDataset, match: str | None) -> Ints:
    """Number the items, or the values of a feature of theirs; one group of all for None: of each item row."""
    if match is None:
        return np.zeros(len(packed.items), dtype=np.int32)
    if match == ITEM:
        return packed.item_ordinals
    column = packed.schema.row_features("item").ids.index(match)
    groups: Ints = np.unique(packed.items.ids[:, column], return_inverse=True)[1].astype(np.int32)
    return groups


def draw_outcomes(
    rates: OutcomeRates,
    label: NDArray[np.int8],
    request_of: Ints,
    row: Ints,
    keys: Longs,
    number: Index,
    count: int,
) -> tuple[Index, Ints]:
    """Choose the candidates with an outcome, and `count` others of each request that has one.

    A candidate without one is drawn in proportion to its group's rate, without replacement: the largest log rate plus
    a Gumbel number (Efraimidis and Spirakis 2006).

    Args:
        rates: of the groups.
        label, request_of, row: of all candidates of the batch's requests: (C,) each.
        keys: the state from which each request draws: (R,).
        number: of the candidate in its request: (C,).
        count: candidates to draw.

    Returns:
        The candidates, by request, and the order in which the others were drawn, 0 for outcomes: (X,) each.
    """
    some = np.zeros(len(keys), dtype=bool)
    some[request_of[label > 0]] = True
    others = np.flatnonzero((label == 0) & some[request_of])
    hashes = draw(keys[request_of[others]], number[others])
    uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    worth = rates.log_rate[rates.group[row[others]]] - np.log(-np.log(uniform))
    others = others[np.lexsort((-worth, request_of[others]))]
    begins = np.searchsorted(request_of[others], np.arange(len(keys)))
    order = np.arange(len(others)) - begins[request_of[others]]
    outcomes = np.flatnonzero(label > 0)
    chosen = np.concatenate((outcomes, others[order < count]))
    drawn_order = np.concatenate((np.zeros(len(outcomes), np.int64), order[order < count]))
    return chosen, drawn_order.astype(np.int32)
