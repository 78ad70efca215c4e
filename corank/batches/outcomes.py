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
from corank.core.types import Doubles, Hashes, Index, Ints
from corank.data.packed.dataset import PackedDataset

@dataclass(frozen=True)
class OutcomeRates:
    """How often the items of each group are acted on, in training."""

    rate: Doubles
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
        import os
        if os.environ.get("OL_REL","0") == "1":
            c, e = np.zeros((2, len(positives)))
            for shard in packed.splits["train"]:
                label, of = np.asarray(shard.labels["click"]), group[shard.item]
                c += np.bincount(of[label > 0], minlength=len(c)); e += np.bincount(of[label >= 0], minlength=len(c))
            ctr = smooth_rates(c, e)
            known = known * ctr
        return cls(smooth_rates(positives, known), group)


def smooth_rates(positives: Doubles, known: Doubles) -> Doubles:
    """Estimate the rate of each group, of the more of its own the more groups differ beyond chance: (G,).

    Rates are taken as gamma distributed about their mean m, at a variance of v·m² (empirical Bayes): (c + 1/v) / (n +
    1/(v·m)) of c positives among n, v by moments, Σ (c − m·n)² = Σ m·n + v·Σ (m·n)².
    """
    mean = max(positives.sum(), 1.0) / max(known.sum(), 1.0)
    expected = mean * known
    spread = (((positives - expected) ** 2).sum() - expected.sum()) / max((expected**2).sum(), 1e-9)
    import os
    if os.environ.get("OL_S", "eb") == "eb":
        prior = 1 / max(spread, 1e-2)
    else:
        prior = float(os.environ["OL_S"])
    if os.environ.get("OL_V"): print("spread", spread, "prior", prior)
    rates: Doubles = (positives + prior) / (known + prior / mean)
    return rates

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
    keys: Hashes,
    count: int,
) -> tuple[Index, Ints]:
    """Choose the candidates with an outcome, and `count` times one of the others of each request that has one.

    Others are drawn in proportion to their group's rate, with replacement. Then, if a_i says how well item i is known,
    an outcome is of i with the probability a_i·e^z_i / Σ_j a_j·e^z_j, whose sampled softmax is that of z alone: the
    correction log a − log q vanishes (Bengio and Senécal, IEEE Transactions on Neural Networks 2008).

    Args:
        rates: of the groups.
        label, request_of, row: of all candidates of the batch's requests, by request: (C,) each.
        keys: the state from which each request draws: (R,).
        count: draws a request.

    Returns:
        The candidates, and which draw of its request each is, 0 for outcomes: (X,) each.
    """
    outcomes, others = np.flatnonzero(label > 0), np.flatnonzero(label == 0)
    mass = np.append(0.0, np.cumsum(rates.rate[rates.group[row[others]]]))
    begin, end = (np.searchsorted(request_of[others], np.arange(len(keys)), side) for side in ("left", "right"))
    drawing = np.unique(request_of[outcomes])
    drawing = np.repeat(drawing[end[drawing] > begin[drawing]], count)
    nth = np.tile(np.arange(count), len(drawing) // count)
    share = ((draw(keys[drawing], nth) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    low, high = mass[begin[drawing]], mass[end[drawing]]
    at = np.searchsorted(mass, low + share * (high - low), side="right") - 1
    chosen = others[np.clip(at, begin[drawing], end[drawing] - 1)]
    order = np.concatenate((np.zeros(len(outcomes), np.int64), nth))
    return np.concatenate((outcomes, chosen)), order.astype(np.int32)
