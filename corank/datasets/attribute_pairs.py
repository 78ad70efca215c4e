"""Pairs of an attribute of the user and one of the item whose rate of clicks says more than both rates do.

Two stages of a funnel learn such pairs slowly, as products of embeddings. As a prior a pair is one number.

Letters: F folds · U values of the user's attribute · I values of the item's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from corank.core.types import Doubles, Longs

MOST_PAIRS = 4
"""So many pairs are chosen, at most."""
MOST_VALUES, MOST_CELLS = 200, 4_000
"""Of an attribute, and of a pair."""
SMOOTHING = 20.0
"""Candidates of the rate that is expected which are added to those of a pair."""
FOLDS = 10
SURE, LEAST = 3.0, 1e-3
"""The gain in standard errors over folds, and as a share of what is to be told, from which on a pair is chosen."""
SAMPLE = 500_000
"""Candidates that are looked at, about; the last ones."""


@dataclass(frozen=True)
class AttributePair:
    """Two attributes, and what their pair adds."""

    user: str
    item: str
    gain: float
    """Of the log-likelihood of clicks, beyond both attributes alone, as a share of the entropy of clicks."""

    @property
    def name(self) -> str:
        """Of a feature that is its rate."""
        return f"{self.user}_{self.item}_clicks"


def choose_pairs(rows: pl.DataFrame, users: Sequence[str], items: Sequence[str], label: str) -> list[AttributePair]:
    """Choose the pairs of attributes that tell clicks best.

    What a pair adds is counted on each tenth of the requests by rates of the others. Where a pair tells nothing, that
    is below zero.

    Args:
        rows: a row a candidate of training days, in the order of time: attributes, and `label`, whether it was clicked.
        users: columns of the user or the context.
        items: columns of the item.
        label: column of true and false, or of 0 and 1.

    Returns:
        At most MOST_PAIRS, the best first.
    """
    clicked = rows[label].cast(pl.Float64).fill_null(0.0).to_numpy()
    rate = clicked.mean() if len(clicked) else 0.0
    if not 0 < rate < 1:
        return []
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    fold = np.arange(len(rows)) * FOLDS // len(rows)
    codes = {name: values for name in (*users, *items) if len(values := _codes(rows[name]))}
    found = []
    for user, item in product((n for n in users if n in codes), (n for n in items if n in codes)):
        sizes = (FOLDS, int(codes[user].max()) + 1, int(codes[item].max()) + 1)
        if sizes[1] * sizes[2] > MOST_CELLS:
            continue
        cell = np.ravel_multi_index((fold, codes[user], codes[item]), sizes)
        cells = int(np.prod(sizes))
        shown = np.bincount(cell, minlength=cells).reshape(sizes).astype(np.float64)
        gains = _gain_by_fold(shown, np.bincount(cell, clicked, cells).reshape(sizes)) / entropy
        error = gains.std(ddof=1) / np.sqrt(FOLDS)
        if gains.mean() >= max(LEAST, SURE * error):
            found.append(AttributePair(user, item, float(gains.mean())))
    return sorted(found, key=lambda pair: -pair.gain)[:MOST_PAIRS]


def _codes(column: pl.Series) -> Longs:
    """Number the values; none if there are too many, or one alone."""
    if not 2 <= column.n_unique() <= MOST_VALUES:
        return np.empty(0, dtype=np.int64)
    return column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _gain_by_fold(shown: Doubles, clicked: Doubles) -> Doubles:
    """The gain of log-likelihood a candidate of each fold by rates of the other folds: (F,).

    Args:
        shown: candidates of each pair: (F, U, I).
        clicked: those that were clicked: (F, U, I).
    """
    others, ones = shown.sum(axis=0) - shown, clicked.sum(axis=0) - clicked
    overall = ones.sum(axis=(1, 2), keepdims=True) / others.sum(axis=(1, 2), keepdims=True)

    def odds(axis: int) -> Doubles:
        rate = (ones.sum(axis=axis, keepdims=True) + SMOOTHING * overall) / (
            others.sum(axis=axis, keepdims=True) + SMOOTHING
        )
        return np.asarray(np.log(rate / (1 - rate)))

    main = 1 / (1 + np.exp(-(odds(1) + odds(2) - np.log(overall / (1 - overall)))))
    lift = (ones + SMOOTHING * overall) / (others * main + SMOOTHING * overall)
    paired = np.clip(main * lift, 1e-6, 1 - 1e-6)
    gain = clicked * np.log(paired / main) + (shown - clicked) * np.log((1 - paired) / (1 - main))
    return np.asarray(gain.sum(axis=(1, 2)) / shown.sum(axis=(1, 2)))
