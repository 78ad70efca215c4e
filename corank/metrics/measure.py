"""A metric as its parts: by user, so that parts merge and users can be resampled.

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


@runtime_checkable
class Measure(Protocol):
    """What `interval` needs of a metric."""

    @property
    def user(self) -> Keys:
        """The user of each part."""

    @property
    def n(self) -> int:
        """How many rows, requests or users count."""

    def value(self, times: Doubles | None = None) -> float | None:
        """The metric, each part counted `times` (as many as `user`) over; None where it is undefined."""


@dataclass(frozen=True)
class Ratio:
    """A metric of the form Σ over / Σ under, its sums kept by user."""

    user: Keys  # (U,) distinct, ascending
    over: Doubles  # (U,)
    under: Doubles  # (U,)
    random: Doubles | None  # (U,) what `over` is expected to be in a random order, for metrics of an order
    n: int

    @classmethod
    def of(
        cls, user: Keys, over: NDArray[Any], under: NDArray[Any], n: int, random: Doubles | None = None
    ) -> Self:
        """Sum rows by user; all arrays are (N,)."""
        users, code = np.unique(user, return_inverse=True)

        def by_user(column: NDArray[Any]) -> Doubles:
            return np.bincount(code, column, len(users)).astype(np.float64, copy=False)

        return cls(users, by_user(over), by_user(under), None if random is None else by_user(random), n)

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """The measure of all parts' rows together, as if they had come in one."""
        random = [part.random for part in parts if part.random is not None]
        return cls.of(
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.over for part in parts]),
            np.concatenate([part.under for part in parts]),
            sum(part.n for part in parts),
            np.concatenate(random) if random else None,
        )

    def value(self, times: Doubles | None = None) -> float | None:
        return _quotient(self.over, self.under, times)

    def chance(self) -> float | None:
        """The value that a random order would have; None for metrics that know of no order."""
        return None if self.random is None else _quotient(self.random, self.under, None)


def _quotient(over: Doubles, under: Doubles, times: Doubles | None) -> float | None:
    whole = under.sum() if times is None else under @ times
    if whole == 0:
        return None
    return float((over.sum() if times is None else over @ times) / whole)


@dataclass(frozen=True)
class Ordered:
    """A metric of the whole order of rows, such as AUC: a formula over distinct scores.

    Sorted once: resampling only weighs the rows anew.
    """

    formula: Formula  # (scores (G,) ascending, positive weight (G,), negative weight (G,)) -> value
    user: Keys  # (N,)
    score: Doubles  # (N,) ascending
    positive: Doubles  # (N,) the row's weight as a positive
    negative: Doubles  # (N,) and as a negative
    first: NDArray[np.intp]  # (G,) where each distinct score begins

    @classmethod
    def of(
        cls, formula: Formula, user: Keys, score: NDArray[Any], positive: Doubles, negative: Doubles
    ) -> Self:
        """Sort rows by score; all arrays are (N,)."""
        order = np.argsort(score, kind="stable")
        score = score[order]
        return cls(
            formula, user[order], score, positive[order], negative[order], np.flatnonzero(changes(score))
        )

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """The measure of all parts' rows together, as if they had come in one."""
        return cls.of(
            parts[0].formula,
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.positive for part in parts]),
            np.concatenate([part.negative for part in parts]),
        )

    @property
    def n(self) -> int:
        return len(self.user)

    def value(self, times: Doubles | None = None) -> float | None:
        if not self.n:
            return None
        return self.formula(
            self.score[self.first], self._by_score(self.positive, times), self._by_score(self.negative, times)
        )

    def _by_score(self, column: Doubles, times: Doubles | None) -> Doubles:
        weighed = column if times is None else column * times
        return weighed if len(self.first) == self.n else np.add.reduceat(weighed, self.first)


def changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it: (N,), the first always."""
    return np.concatenate([np.ones(min(1, len(values)), dtype=bool), values[1:] != values[:-1]])


def refuse_nan(scores: NDArray[np.floating]) -> None:
    """Raise DivergedError where a score is NaN, which has no place in an order."""
    odd = np.flatnonzero(np.isnan(scores))
    if len(odd):
        raise DivergedError(
            f"scores: {len(odd)} are NaN, first at row {odd[0]}; did the stage's training diverge?"
        )
