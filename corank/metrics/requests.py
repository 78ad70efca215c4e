"""Candidates grouped by request, and computations of cascade metrics within each request.

Letters: R requests · C candidates.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.measure import Keys, RatioMeasure, order_by_group, refuse_nan


@dataclass(frozen=True)
class Requests:
    """Request r holds the candidates start[r] to start[r + 1] and belongs to user[r].

    Example:
        >>> requests = Requests(np.array([0, 3, 5]), np.array([7, 9]))  # three candidates of user 7, two of user 9
        >>> requests.ranks(np.array([0.1, 0.9, 0.5, 1.0, 2.0]))
        array([2, 0, 1, 1, 0])
    """

    start: Longs
    """(R + 1,)"""
    user: Keys
    """(R,)"""

    @cached_property
    def size(self) -> Longs:
        """Candidates of each request: (R,)."""
        return np.diff(self.start)

    @cached_property
    def request_of(self) -> NDArray[np.intp]:
        """The request of each candidate: (C,)."""
        return np.repeat(np.arange(len(self.size)), self.size)

    @cached_property
    def start_of(self) -> Longs:
        """Where the request of each candidate begins: (C,)."""
        return np.repeat(self.start[:-1], self.size)

    def user_of(self) -> Keys:
        """The user of each candidate: (C,)."""
        return np.repeat(self.user, self.size)

    def ranks(self, scores: NDArray[np.floating]) -> Longs:
        """Rank the candidates of each request, 0 for the highest score, ties in the order of the log: (C,).

        A stage's top k is `ranks(scores) < k`. Raises DataError if a score is NaN or missing.
        """
        order = self.ascending(-scores)
        ranks = np.empty(len(scores), dtype=np.int64)
        ranks[order] = np.arange(len(scores)) - self.start_of
        return ranks

    def ascending(self, scores: NDArray[np.floating]) -> NDArray[np.intp]:
        """Order the candidates by request, then by score, ties in their input order: (C,) positions.

        Raises DataError if a score is NaN or missing.
        """
        if len(scores) != self.start[-1]:
            raise DataError(f"scores: expected {self.start[-1]}, one a candidate; received {len(scores)}")
        refuse_nan(scores)
        return order_by_group(self.request_of, scores)

    def sums(self, values: NDArray[Any]) -> Doubles:
        """Sum the values of each request: (C,) → (R,)."""
        return np.bincount(self.request_of, values, len(self.size)).astype(np.float64, copy=False)

    def mean(
        self, values: Doubles, eligible: NDArray[np.bool_], random: Doubles | None = None
    ) -> RatioMeasure:
        """Average over the eligible requests.

        Users without an eligible request stay with weight 0, so that all metrics are resampled from the same users.

        Args:
            values: (R,).
            eligible: (R,) bool.
            random: expected values of a random order: (R,), if known.
        """
        return RatioMeasure.of(
            self.user,
            np.where(eligible, values, 0),
            eligible,
            n=int(eligible.sum()),
            random=None if random is None else np.where(eligible, random, 0),
        )
