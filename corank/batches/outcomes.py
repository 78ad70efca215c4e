"""Outcomes of a batch: the candidates whose label is 1, at any level, and others of their requests to set against them.

By another path people find what they know already, so that what they act on there is known as much as it is liked.
The rate at which an item is acted on there says how well it is known; a loss adds its logarithm to the logits.

Letters: R requests · C candidates · G groups of items · X drawn candidates.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.batches.draws import draw
from corank.batches.sampling import ITEM, Outcomes, draw_order
from corank.core.types import Doubles, Floats, Hashes, Index, Ints
from corank.data.packed.dataset import PackedDataset

LEAST_SPREAD = 0.01
"""Variance of the rates over their squared mean, at least: below, all are alike."""


@dataclass(frozen=True)
class OutcomeRates:
    """How often the items of each group are acted on, in training."""

    log_rate: Floats
    """ln(rate / mean rate): (G,)."""
    group: Ints
    """The group of each item row."""

    @classmethod
    def count(cls, packed: PackedDataset, wanted: Outcomes) -> Self:
        """Count the outcomes of the training split."""
        group = _groups(packed, wanted.bias)
        positives, known = np.zeros((2, int(group.max(initial=0)) + 1))
        for shard in packed.splits["train"]:
            label, of = np.asarray(shard.labels[wanted.label]), group[shard.item]
            positives += np.bincount(of[label > 0], minlength=len(positives))
            known += np.bincount(of[label >= 0], minlength=len(known))
        rates = smooth_rates(positives, known)
        return cls(np.log(rates / rates.mean()).astype(np.float32), group)


def smooth_rates(positives: Doubles, known: Doubles) -> Doubles:
    """Estimate the rate of each group: the more groups differ beyond chance, the more it is the group's own: (G,).

    Rates are taken as gamma distributed with mean m and variance v·m² (empirical Bayes): (c + 1/v) / (n + 1/(v·m)) for
    c positives among n, with v by moments: Σ (c − m·n)² = Σ m·n + v·Σ (m·n)².
    """
    mean = max(positives.sum(), 1.0) / max(known.sum(), 1.0)
    expected = mean * known
    spread = (((positives - expected) ** 2).sum() - expected.sum()) / max((expected**2).sum(), LEAST_SPREAD)
    prior = 1 / max(spread, LEAST_SPREAD)
    rates: Doubles = (positives + prior) / (known + prior / mean)
    return rates


def _groups(packed: PackedDataset, bias: str | None) -> Ints:
    """Number the group of each item row: its item, its value of a feature, or one group of all for None."""
    if bias is None:
        return np.zeros(len(packed.items), dtype=np.int32)
    if bias == ITEM:
        return packed.item_ordinals
    column = packed.schema.row_features("item").ids.index(bias)
    groups: Ints = np.unique(packed.items.ids[:, column], return_inverse=True)[1].astype(np.int32)
    return groups


def draw_outcomes(
    label: NDArray[np.int8], request_of: Ints, keys: Hashes, number: Index, count: int
) -> tuple[Index, Ints]:
    """Choose the candidates with an outcome, and draw `count` others of each request that has one.

    Args:
        label, request_of: of all candidates of the batch's requests: (C,) each.
        keys: the state from which each request draws: (R,).
        number: of each candidate in its request: (C,).
        count: others a request.

    Returns:
        The candidates, and the order in which others were drawn, 0 for outcomes: (X,) each.
    """
    outcomes, some = np.flatnonzero(label > 0), np.zeros(len(keys), dtype=bool)
    some[request_of[outcomes]] = True
    others = np.flatnonzero((label == 0) & some[request_of])
    hashes = draw(keys[request_of[others]], number[others])
    order = draw_order(request_of[others], np.zeros(len(others), np.uint8), hashes)
    drawn = order < count
    chosen = np.concatenate((outcomes, others[drawn]))
    return chosen, np.concatenate((np.zeros(len(outcomes), np.int32), order[drawn]))
