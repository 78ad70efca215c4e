"""The requests that cascade metrics speak of: C candidates in R requests, request-major."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.measure import Keys, Ratio, refuse_nan


@dataclass(frozen=True)
class Requests:
    """Request r holds candidates start[r] to start[r + 1] and belongs to user[r]."""

    start: Longs  # (R + 1,)
    user: Keys  # (R,)

    @cached_property
    def size(self) -> Longs:
        """(R,)"""
        return np.diff(self.start)

    @cached_property
    def request_of(self) -> NDArray[np.intp]:
        """(C,)"""
        return np.repeat(np.arange(len(self.size)), self.size)

    @cached_property
    def start_of(self) -> Longs:
        """Where each candidate's request begins: (C,)"""
        return np.repeat(self.start[:-1], self.size)

    def user_of(self) -> Keys:
        """(C,)"""
        return np.repeat(self.user, self.size)

    def places(self, scores: NDArray[np.floating]) -> Longs:
        """Each candidate's place in its request, 0 for the highest score, ties in the log's order: (C,).

        A stage's top k is `places(scores) < k`. Raises DataError on NaN or a missing score.
        """
        order = self.ascending(-scores)
        places = np.empty(len(scores), dtype=np.int64)
        places[order] = np.arange(len(scores)) - self.start_of
        return places

    def ascending(self, scores: NDArray[np.floating]) -> NDArray[np.intp]:
        """The candidates by request, then by score, ties in the order given: (C,)."""
        if len(scores) != self.start[-1]:
            raise DataError(f"scores: expected {self.start[-1]}, one a candidate; received {len(scores)}")
        refuse_nan(scores)
        # Complex numbers compare by real part, then by imaginary: one sort, five times as fast as lexsort.
        key = np.empty(len(scores), dtype=np.complex128)
        key.real, key.imag = self.request_of, scores
        return np.argsort(key, kind="stable")

    def sums(self, values: NDArray[Any]) -> Doubles:
        """(C,) to (R,)"""
        return np.bincount(self.request_of, values, len(self.size)).astype(np.float64, copy=False)

    def mean(self, values: Doubles, eligible: NDArray[np.bool_], random: Doubles | None = None) -> Ratio:
        """The mean over eligible requests of `values` (R,), beside that of a random order (R,).

        Users without an eligible request stay, at no weight: every metric is resampled from the same users.
        """
        return Ratio.of(
            self.user,
            np.where(eligible, values, 0),
            eligible,
            n=int(eligible.sum()),
            random=None if random is None else np.where(eligible, random, 0),
        )
