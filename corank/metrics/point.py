"""Metrics of single rows: how well a stage orders them and predicts their labels.

All arrays are (N,): a row is a candidate with its user, its score or predicted probability, and its label: 1, 0, or −1
for unknown, which is left out. `weight` is the inverse of the rate at which the row was sampled; 1 unless given.
Raises DataError on a NaN, and on a label or a probability out of range.
`bias_regret` compares a model with a reference that was trained without selection bias, `reliability` predicted with
observed rates, bin by bin.

Letters: N rows · U distinct users · B bins.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs, Numbers
from corank.metrics.measure import (
    Keys,
    OrderMeasure,
    RatioMeasure,
    differs_from_previous,
    order_by_group,
    refuse_nan,
)

Labels = NDArray[np.integer]
BINS = 15


def auc(user: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None) -> OrderMeasure:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half.

    None with one class. Source: Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, 1982.
    """
    (user,), scores, clicked, weight = known_rows((user,), scores, labels, weight)
    return OrderMeasure.of(_area, user, scores, clicked * weight, (1 - clicked) * weight)


def truth_auc(user: Keys, scores: Numbers, truth: Numbers, weight: Numbers | None = None) -> OrderMeasure:
    """AUC against known click probabilities p: Σ p_i (1 − p_j) [s_i > s_j] / Σ p_i (1 − p_j) over all i, j.

    Each row counts as a positive with weight p and as a negative with weight 1 − p; its pair with itself is tied.
    """
    refuse_nan(scores)
    truth = _probabilities(truth, "truth")
    weight = np.ones(len(truth)) if weight is None else weight
    return OrderMeasure.of(_area, user, scores, truth * weight, (1 - truth) * weight)


def cut_auc(
    user: Keys,
    scores: Numbers,
    level: NDArray[np.integer],
    cuts: Collection[int],
    weight: Numbers | None = None,
) -> OrderMeasure:
    """AUC of kept against cut candidates: how well a stage reproduces its cut in the log.

    Cut are the levels in `cuts`, kept those deeper than all of them. A level that is neither was cut by an earlier
    stage, never reached this one, and is left out.
    """
    kept = np.where(level > max(cuts), 1, np.where(np.isin(level, list(cuts)), 0, -1))
    return auc(user, scores, kept, weight)


def gauc(user: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None) -> RatioMeasure:
    """AUC within each user, averaged by impressions; users with one class are left out, n counts the others.

    Source: Zhu et al., Optimized Cost per Click in Taobao Display Advertising, KDD 2017.
    """
    (user,), scores, clicked, weight = known_rows((user,), scores, labels, weight)
    return _by_impressions(user, user, scores, clicked, weight)


def gauc_user_day(
    user: Keys, day: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None
) -> RatioMeasure:
    """AUC within each user and day, averaged by impressions; n counts the pairs of user and day with both classes.

    Over several days it is not fooled by what merely follows a user's rate from day to day, as `gauc` is.

    Args:
        user: (N,).
        day: the number of the row's day: (N,).
        scores: (N,).
        labels: (N,).
        weight: (N,).
    """
    (user, day), scores, clicked, weight = known_rows((user, day), scores, labels, weight)
    of_user = np.unique(user, return_inverse=True)[1]
    day = day.astype(np.int64) - day.min(initial=0)
    return _by_impressions(user, of_user * (day.max(initial=0) + 1) + day, scores, clicked, weight)


class GroupAreas(NamedTuple):
    """AUC within each of G groups of rows: all (G,)."""

    first: NDArray[np.intp]
    """A row of the group."""
    rows: Longs
    mass: Doubles
    """Σ of the weights."""
    mixed: NDArray[np.bool_]
    """Whether the group has both classes."""
    area: Doubles
    """AUC; 0 in groups of one class."""


def group_areas(group: Keys, scores: Numbers, clicked: Doubles, weight: Doubles) -> GroupAreas:
    """Compute the AUC within each group of rows, ties half: all (N,), `clicked` 1 or 0."""
    order = order_by_group(group, scores)
    group, scores, clicked, weight = group[order], scores[order], clicked[order], weight[order]
    new_group = differs_from_previous(group)
    begin = np.flatnonzero(new_group)
    tied = np.flatnonzero(new_group | differs_from_previous(scores))
    first = np.searchsorted(tied, begin)  # where each group's distinct scores begin
    positive, negative = sum_runs(clicked * weight, tied), sum_runs((1 - clicked) * weight, tied)
    positives, negatives = sum_runs(positive, first), sum_runs(negative, first)

    below = np.cumsum(negative) - negative / 2
    area = sum_runs(positive * below, first) - positives * (np.cumsum(negatives) - negatives)
    pairs = positives * negatives
    mixed = pairs > 0
    rows = np.diff(begin, append=len(order))
    return GroupAreas(
        order[begin], rows, positives + negatives, mixed, np.where(mixed, area / np.where(mixed, pairs, 1), 0)
    )


def _by_impressions(
    user: Keys, group: Keys, scores: Numbers, clicked: Doubles, weight: Doubles
) -> RatioMeasure:
    """Average the AUC of groups, each of one user, by impressions."""
    groups = group_areas(group, scores, clicked, weight)
    impressions = np.where(groups.mixed, groups.mass, 0)
    return RatioMeasure.of(
        user[groups.first],
        impressions * groups.area,
        impressions,
        n=int(groups.mixed.sum()),
        random=impressions / 2,
    )


def logloss(user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None) -> RatioMeasure:
    """Log loss: −Σ w (y ln p + (1 − y) ln(1 − p)) / Σ w. p is kept one epsilon of its type away from 0 and 1."""
    epsilon = np.finfo(predictions.dtype).eps
    (user,), predictions, clicked, weight = known_rows((user,), predictions, labels, weight)
    p = np.clip(_probabilities(predictions, "predictions"), epsilon, 1 - epsilon)
    return RatioMeasure.of(user, -weight * np.log(np.where(clicked == 1, p, 1 - p)), weight, n=len(user))


def pcoc(user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None) -> RatioMeasure:
    """Predicted clicks over clicks: Σ w p / Σ w y. Above 1 the stage predicts too many; None without clicks."""
    (user,), predictions, clicked, weight = known_rows((user,), predictions, labels, weight)
    return RatioMeasure.of(
        user, weight * _probabilities(predictions, "predictions"), weight * clicked, n=len(user)
    )


def ece(
    user: Keys, predictions: Numbers, labels: Labels, weight: Numbers | None = None, bins: int = BINS
) -> OrderMeasure:
    """Expected calibration error: Σ_b |Σ_{i in b} w (p − y)| / Σ w over `bins` bins of equal mass.

    Equal predictions share a bin, so that a constant prediction has |p − mean y|. Noise raises an ECE, and resampling
    adds noise: the interval of a well calibrated stage lies above its value. Source: Naeini, Cooper and Hauskrecht,
    Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015, with bins of equal mass.
    """
    (user,), predictions, clicked, weight = known_rows((user,), predictions, labels, weight)
    p = _probabilities(predictions, "predictions")
    return OrderMeasure.of(
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


def known_rows(
    keys: Sequence[Keys], scores: Numbers, labels: Labels, weight: Numbers | None
) -> tuple[list[Keys], Numbers, Doubles, Doubles]:
    """Return the rows whose label is known: keys, scores, and label and weight as float64.

    Raises DataError on a label out of range, DivergedError on a NaN among the scores.
    """
    odd = np.flatnonzero((labels < -1) | (labels > 1))
    if len(odd):
        raise DataError(f"labels: row {odd[0]} is {labels[odd[0]]}; expected 1, 0, or -1 where unknown")
    rows = labels >= 0
    scores = scores[rows]
    refuse_nan(scores)
    weights = np.ones(len(scores)) if weight is None else weight[rows].astype(np.float64)
    return [key[rows] for key in keys], scores, labels[rows].astype(np.float64), weights


def _probabilities(values: Numbers, name: str) -> Doubles:
    odd = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(odd):
        raise DataError(
            f"{name}: {values[odd[0]]} is no probability; apply the sigmoid or the calibrator first"
        )
    return values.astype(np.float64)


def sum_runs(values: Doubles, first: NDArray[np.intp]) -> Doubles:
    """Sum runs of rows, which begin at the positions `first`."""
    return np.add.reduceat(values, first) if len(first) else values[:0]


@dataclass(frozen=True)
class PairedDifference:
    """One measure minus another of the same users; both get the same resamples of the users, so they are paired.

    Raises DataError if the two measures are of different users.
    """

    one: OrderMeasure | RatioMeasure
    other: OrderMeasure | RatioMeasure

    def __post_init__(self) -> None:
        if not np.array_equal(self.user, np.unique(self.other.user)):
            raise DataError(
                "a paired difference needs two measures of the same users; these are of different users"
            )

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The difference over the rows of all parts together."""
        return cls(_merged([part.one for part in parts]), _merged([part.other for part in parts]))

    @cached_property
    def user(self) -> Keys:
        """Distinct users, ascending: (U,)."""
        return np.unique(self.one.user)

    @property
    def n(self) -> int:
        """Rows of the second measure."""
        return self.other.n

    def value(self, counts: Doubles | None = None) -> float | None:
        """The first measure's value minus the second's; None if one is not defined."""
        one, other = (
            measure.value(None if counts is None else counts[code])
            for measure, code in zip((self.one, self.other), self._codes, strict=True)
        )
        return None if one is None or other is None else one - other

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute the difference in resamples of the users: (B,)."""
        one, other = (
            measure.resample(code[of_row], counts)
            for measure, of_row in zip((self.one, self.other), self._codes, strict=True)
        )
        return one - other

    @cached_property
    def _codes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The position in `user` of each row's user, in both measures."""
        return np.searchsorted(self.user, self.one.user), np.searchsorted(self.user, self.other.user)


def _merged(parts: Sequence[Any]) -> Any:
    return type(parts[0]).merge(parts)


def bias_regret(
    user: Keys, reference: Numbers, scores: Numbers, truth: Numbers, weight: Numbers | None = None
) -> PairedDifference:
    """AUC of a reference model minus AUC of the model, both on all candidates against known click probabilities.

    The reference has the same form and was trained without selection: on the truth, or on random traffic. Above 0 is
    what the bias costs. The plain difference between AUC on all and on exposed candidates is no measure of bias: the
    two populations are not equally hard, even for a perfect model.

    Args:
        user: (N,).
        reference: the reference's scores: (N,).
        scores: the model's scores: (N,).
        truth: known click probabilities: (N,).
        weight: (N,); 1 unless given.
    """
    return PairedDifference(truth_auc(user, reference, truth, weight), truth_auc(user, scores, truth, weight))


_BINS = 10
BIN_POSITIVES = 10
"""Positives that a bin should have on average: with fewer its rate is mostly noise."""


@dataclass(frozen=True)
class ReliabilityCurve:
    """Bins of equal mass, from the lowest predictions to the highest; all (B,)."""

    predicted: Doubles
    """Mean prediction."""
    observed: Doubles
    """Observed rate."""
    low: Doubles
    """Lower end of the 95 % interval of the observed rate."""
    high: Doubles
    """Upper end."""
    rows: NDArray[np.intp]
    """Rows in the bin."""


def reliability(
    predicted: NDArray[np.floating],
    positive: NDArray[np.bool_],
    weight: NDArray[np.floating],
    bins: int | None = None,
) -> ReliabilityCurve:
    """Compare predictions with what was observed, in bins of equal mass.

    The interval of an observed rate is Jeffreys' (Brown, Cai and DasGupta, Interval Estimation for a Binomial
    Proportion, 2001); weighted rows count in it as (Σ w)² / Σ w² rows of weight 1.

    Args:
        predicted: (N,).
        positive: (N,) bool.
        weight: (N,).
        bins: how many; unless given, as many as leave ten positives to each on average, from 1 to 10.
    """
    order = np.argsort(predicted, kind="stable")
    p, y, w = (column[order].astype(np.float64) for column in (predicted, positive, weight))
    below = np.cumsum(w)
    bins = bins or int(np.clip(y.sum() // BIN_POSITIVES, 1, _BINS))
    starts = np.unique(np.searchsorted(below - w / 2, below[-1] * np.arange(bins) / bins))

    def by_bin(values: Doubles) -> Doubles:
        return np.add.reduceat(values, starts)

    from scipy.special import betaincinv

    mass, rate = by_bin(w), by_bin(w * y) / by_bin(w)
    rows = mass**2 / by_bin(w**2)
    low, high = (betaincinv(rate * rows + 0.5, (1 - rate) * rows + 0.5, part) for part in (0.025, 0.975))
    return ReliabilityCurve(by_bin(w * p) / mass, rate, low, high, np.diff(starts, append=len(p)))
