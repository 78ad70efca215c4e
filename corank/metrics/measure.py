"""Measures: a metric in parts by user, so that shards merge and users can be resampled.

Letters: N rows · U distinct users · G distinct scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DivergedError
from corank.core.types import Doubles

Keys = NDArray[np.integer]
Formula = Callable[[Doubles, Doubles, Doubles], float | None]
"""(distinct scores, ascending; weight of the positives, and of the negatives, with each score): all (G,) → value.

Weights are 0 for users that a resample leaves out; the value is None where it is not defined.
"""

BLOCK = 2**13
"""Parts whose counts are widened to 64 bits at a time."""
BINS = 2**12
"""Distinct scores of resamples, at most."""


@runtime_checkable
class Measure(Protocol):
    """The result of a metric's formula."""

    @property
    def user(self) -> Keys:
        """The user of each part."""

    @property
    def n(self) -> int:
        """How many rows, requests or users count."""

    def value(self, counts: Doubles | None = None) -> float | None:
        """Compute the metric; None if it is not defined.

        Args:
            counts: how often each part counts, as many numbers as `user`; once unless given.
        """

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute the metric in B resamples of its users: (B,), NaN where it is not defined.

        Args:
            code: the user of each part, as a row of `counts`.
            counts: how often each user counts in each resample: (U, B).
        """


@dataclass(frozen=True)
class RatioMeasure:
    """A metric of the form Σ numerator / Σ denominator, with its sums kept by user.

    Example:
        >>> RatioMeasure.of(user, clicked, np.ones(len(user)), n=len(user)).value()  # the click rate
    """

    user: Keys
    """Distinct users, ascending: (U,)."""
    numerator: Doubles
    """(U,)"""
    denominator: Doubles
    """(U,)"""
    random: Doubles | None
    """The numerator expected of a random order: (U,); None for metrics that are not of an order."""
    n: int
    reason: str | None = None
    """Why the data cannot tell the metric, which has no value then; None if they can."""

    @classmethod
    def of(
        cls,
        user: Keys,
        numerator: NDArray[Any],
        denominator: NDArray[Any],
        n: int,
        random: Doubles | None = None,
        reason: str | None = None,
    ) -> Self:
        """Sum rows by user; all arrays are (N,)."""
        users, code = np.unique(user, return_inverse=True)

        def by_user(column: NDArray[Any]) -> Doubles:
            return np.bincount(code, column, len(users)).astype(np.float64, copy=False)

        expected = None if random is None else by_user(random)
        return cls(users, by_user(numerator), by_user(denominator), expected, n, reason)

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Merge the measures of several shards into that of all their rows."""
        random = [part.random for part in parts if part.random is not None]
        return cls.of(
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.numerator for part in parts]),
            np.concatenate([part.denominator for part in parts]),
            sum(part.n for part in parts),
            np.concatenate(random) if random else None,
        )

    def value(self, counts: Doubles | None = None) -> float | None:
        """Compute the metric, each user counted `counts` (U,) times; None if the denominator is 0, or with a reason."""
        if self.reason is not None:
            return None
        return _quotient(self.numerator, self.denominator, counts)

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute the metric in resamples of its users, in one pass over them."""
        sums = np.zeros((2, counts.shape[1]))
        parts = np.stack((self.numerator, self.denominator))
        for begin in range(0, len(code), BLOCK):
            here = slice(begin, begin + BLOCK)
            sums += parts[:, here] @ counts[code[here]].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(sums[1] == 0, np.nan, sums[0] / sums[1])

    def random_value(self) -> float | None:
        """Compute the value expected of a random order; None for metrics that are not of an order."""
        return None if self.random is None else _quotient(self.random, self.denominator, None)


def _quotient(numerator: Doubles, denominator: Doubles, counts: Doubles | None) -> float | None:
    whole = denominator.sum() if counts is None else denominator @ counts
    if whole == 0:
        return None
    return float((numerator.sum() if counts is None else numerator @ counts) / whole)


@dataclass(frozen=True)
class OrderMeasure:
    """A metric of the order of all rows, such as AUC: a formula over distinct scores.

    Rows are sorted once; a resample only changes their weights.
    """

    formula: Formula
    user: Keys
    """(N,)"""
    score: Doubles
    """Ascending: (N,)."""
    positive: Doubles
    """Weight of each row as a positive: (N,)."""
    negative: Doubles
    """Weight of each row as a negative: (N,)."""
    first: NDArray[np.intp]
    """The first row of each distinct score: (G,)."""

    @classmethod
    def of(
        cls, formula: Formula, user: Keys, score: NDArray[Any], positive: Doubles, negative: Doubles
    ) -> Self:
        """Sort rows by score; all arrays are (N,)."""
        order = np.argsort(score, kind="stable")
        score = score[order]
        first = np.flatnonzero(differs_from_previous(score))
        return cls(formula, user[order], score, positive[order], negative[order], first)

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Merge the measures of several shards into that of all their rows."""
        return cls.of(
            parts[0].formula,
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.positive for part in parts]),
            np.concatenate([part.negative for part in parts]),
        )

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.user)

    def value(self, counts: Doubles | None = None) -> float | None:
        """Compute the metric, each row counted `counts` (N,) times; None if it is not defined."""
        if not self.n:
            return None
        return self.formula(
            self.score[self.first],
            self._sum_by_score(self.positive, counts),
            self._sum_by_score(self.negative, counts),
        )

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute the metric in resamples of its users.

        Scores are cut into at most BINS bins of neighbours, which count as one score each; by how much that changes
        the value of the rows as they are, the resamples are corrected.
        """
        distinct = len(self.first)
        if not distinct:
            return np.full(counts.shape[1], np.nan)
        from scipy.sparse import csr_array

        bins = min(BINS, distinct)
        bin_of = np.repeat(np.arange(distinct) * bins // distinct, np.diff(self.first, append=self.n))

        def by_bin(weight: Doubles) -> Doubles:
            return np.bincount(bin_of, weight, bins).astype(np.float64, copy=False)

        score = by_bin((self.positive + self.negative) * self.score) / by_bin(self.positive + self.negative)
        weights = counts.astype(np.float64)
        positive, negative = (
            (csr_array((weight, (bin_of, code)), (bins, len(counts))) @ weights).T
            for weight in (self.positive, self.negative)
        )
        resampled = [self.formula(score, *sums) for sums in zip(positive, negative, strict=True)]
        values = np.array([np.nan if value is None else value for value in resampled])
        exact, binned = self.value(), self.formula(score, by_bin(self.positive), by_bin(self.negative))
        return values if exact is None or binned is None else values + (exact - binned)

    def _sum_by_score(self, weight: Doubles, counts: Doubles | None) -> Doubles:
        """(N,) → (G,)."""
        counted = weight if counts is None else weight * counts
        return counted if len(self.first) == self.n else np.add.reduceat(counted, self.first)


def differs_from_previous(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark values that differ from the one before: (N,); the first always does."""
    return np.concatenate([np.ones(min(1, len(values)), dtype=bool), values[1:] != values[:-1]])


def order_by_group(group: Keys, scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Order rows by group, then by score, ties in their input order: positions (N,). Scores are no NaN."""
    if len(group) and max(-int(group.min()), int(group.max())) >= 2**53:  # not exact in a float
        group = np.unique(group, return_inverse=True)[1]
    # Complex numbers compare by real part, then by imaginary: one sort, five times as fast as lexsort.
    key = np.empty(len(scores), dtype=np.complex128)
    key.real, key.imag = group, scores
    return np.argsort(key, kind="stable")


def refuse_nan(scores: NDArray[np.floating]) -> None:
    """Raise DivergedError if a score is NaN, which has no rank."""
    odd = np.flatnonzero(np.isnan(scores))
    if len(odd):
        raise DivergedError(
            f"scores: {len(odd)} are NaN, first at row {odd[0]}; did the stage's training diverge?"
        )
