"""How well a stage predicts its rows, one by one: exposed candidates, or all where labels or truth are known.

All arrays are (N,): a row is a candidate with its user, its score or predicted probability, and its label:
1, 0, or −1 for unknown, left out. `weight` is the inverse of the rate at which the row was sampled, or 1.
Raises DataError on a NaN, a label or a probability out of range.
"""

from collections.abc import Collection
from functools import partial

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Numbers
from corank.metrics.measure import Keys, Ordered, Ratio, changes, refuse_nan

Labels = NDArray[np.integer]
BINS = 15


def auc(user: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None) -> Ordered:
    """The chance that a positive scores above a negative, ties counted half; None with one class."""
    user, scores, clicked, weight = _known(user, scores, labels, weight)
    return Ordered.of(_area, user, scores, clicked * weight, (1 - clicked) * weight)


def truth_auc(user: Keys, scores: Numbers, truth: Numbers, weight: Numbers | None = None) -> Ordered:
    """AUC against known click probabilities p: Σ p_i (1 − p_j) [s_i > s_j] / Σ p_i (1 − p_j) over all i, j.

    Each row is p of a positive and 1 − p of a negative; its pair with itself counts as tied.
    """
    refuse_nan(scores)
    truth = _probabilities(truth, "truth")
    weight = np.ones(len(truth)) if weight is None else weight
    return Ordered.of(_area, user, scores, truth * weight, (1 - truth) * weight)


def cut_auc(
    user: Keys,
    scores: Numbers,
    level: NDArray[np.integer],
    cuts: Collection[int],
    weight: Numbers | None = None,
) -> Ordered:
    """AUC of kept against cut candidates: the boundary that a stage draws.

    Cut are the levels in `cuts`, kept those deeper than all of them. A level that is neither was cut by an
    earlier stage, never came before this one, and is left out.
    """
    kept = np.where(level > max(cuts), 1, np.where(np.isin(level, list(cuts)), 0, -1))
    return auc(user, scores, kept, weight)


def gauc(user: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None) -> Ratio:
    """AUC within each user, averaged by impressions; users with one class are left out, n counts the others.

    (Zhu et al., Optimized Cost per Click in Taobao Display Advertising, 2017.)
    """
    user, scores, clicked, weight = _known(user, scores, labels, weight)
    order = np.argsort(scores)
    order = order[np.argsort(user[order], kind="stable")]
    user, scores, clicked, weight = user[order], scores[order], clicked[order], weight[order]
    new_user = changes(user)
    tied = np.flatnonzero(new_user | changes(scores))
    first = np.searchsorted(tied, np.flatnonzero(new_user))  # where each user's distinct scores begin
    positive, negative = _sums(clicked * weight, tied), _sums((1 - clicked) * weight, tied)
    positives, negatives = _sums(positive, first), _sums(negative, first)

    below = np.cumsum(negative) - negative / 2
    area = _sums(positive * below, first) - positives * (np.cumsum(negatives) - negatives)
    pairs = positives * negatives
    mixed = pairs > 0
    impressions = np.where(mixed, positives + negatives, 0)
    return Ratio.of(
        user[new_user], impressions * area / np.where(mixed, pairs, 1), impressions, n=int(mixed.sum())
    )


def logloss(user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None) -> Ratio:
    """−Σ w (y ln p + (1 − y) ln(1 − p)) / Σ w. p is kept one epsilon of its type away from 0 and 1."""
    epsilon = np.finfo(predictions.dtype).eps
    user, predictions, clicked, weight = _known(user, predictions, labels, weight)
    p = np.clip(_probabilities(predictions, "predictions"), epsilon, 1 - epsilon)
    return Ratio.of(user, -weight * np.log(np.where(clicked == 1, p, 1 - p)), weight, n=len(user))


def pcoc(user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None) -> Ratio:
    """Predicted click over click: Σ w p / Σ w y. Above 1 the stage promises too much; None without clicks."""
    user, predictions, clicked, weight = _known(user, predictions, labels, weight)
    return Ratio.of(user, weight * _probabilities(predictions, "predictions"), weight * clicked, n=len(user))


def ece(
    user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None, bins: int = BINS
) -> Ordered:
    """Expected calibration error: Σ_b |Σ_{i in b} w (p − y)| / Σ w over `bins` bins of equal mass.

    Equal predictions share a bin, so that a constant prediction has |p − mean y|. Noise raises an ECE, and
    resampling adds noise: the interval of a well calibrated stage lies above its value.
    """
    user, predictions, clicked, weight = _known(user, predictions, labels, weight)
    p = _probabilities(predictions, "predictions")
    return Ordered.of(
        partial(_calibration_error, bins=bins), user, p, clicked * weight, (1 - clicked) * weight
    )


def _area(_: Doubles, positive: Doubles, negative: Doubles) -> float | None:
    below = np.cumsum(negative)
    pairs = positive.sum() * below[-1]
    return float(positive @ (below - negative / 2) / pairs) if pairs > 0 else None


def _calibration_error(p: Doubles, positive: Doubles, negative: Doubles, bins: int) -> float | None:
    mass = positive + negative
    below = np.cumsum(mass)
    if below[-1] == 0:
        return None
    edges = np.searchsorted(below - mass / 2, below[-1] * np.arange(1, bins) / bins)
    gaps = [part.sum() for part in np.split(mass * p - positive, edges)]
    return float(np.abs(gaps).sum() / below[-1])


def _known(
    user: Keys, scores: Numbers, labels: Labels, weight: Numbers | None
) -> tuple[Keys, Numbers, Doubles, Doubles]:
    """The rows whose label is known; label and weight as float64."""
    odd = np.flatnonzero((labels < -1) | (labels > 1))
    if len(odd):
        raise DataError(f"labels: row {odd[0]} is {labels[odd[0]]}; expected 1, 0, or -1 where unknown")
    rows = labels >= 0
    scores = scores[rows]
    refuse_nan(scores)
    weights = np.ones(len(scores)) if weight is None else weight[rows].astype(np.float64)
    return user[rows], scores, labels[rows].astype(np.float64), weights


def _probabilities(values: Numbers, name: str) -> Doubles:
    odd = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(odd):
        raise DataError(
            f"{name}: {values[odd[0]]} is no probability; apply the sigmoid or the calibrator first"
        )
    return values.astype(np.float64)


def _sums(values: Doubles, first: NDArray[np.intp]) -> Doubles:
    return np.add.reduceat(values, first) if len(first) else values[:0]
