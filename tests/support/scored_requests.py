"""Small requests with scores, by hand and at random, for tests of the cascade's metrics."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from corank.core.types import Doubles
from corank.metrics.intervals import REPLICATES, interval
from corank.metrics.measure import Measure
from corank.metrics.requests import Requests


def floats(*values: float) -> Doubles:
    """An array of scores."""
    return np.array(values, dtype=np.float64)


def labels(*values: int) -> NDArray[np.int8]:
    """An array of labels; -1 for an unknown one."""
    return np.array(values, dtype=np.int8)


def requests(*sizes: int, user: Sequence[int] | None = None) -> Requests:
    """Requests of so many candidates each, of users that are all distinct unless given."""
    start = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Requests(start, np.arange(len(sizes)) if user is None else np.array(user))


def order(scores: Doubles, rows: Iterable[int]) -> list[int]:
    """Sort rows by descending score, ties in the log's order."""
    return sorted(rows, key=lambda row: (-scores[row], row))


def bounds(measure: Measure, seed: int = 0, count: int = REPLICATES) -> tuple[float, float]:
    """The interval of a measure that has one."""
    limits = interval(measure, seed, count)
    assert limits is not None
    return limits


def rows_of(some: Requests) -> list[range]:
    """The rows of each request."""
    return [range(begin, end) for begin, end in pairwise(some.start)]


Scored = tuple[Requests, list[Doubles]]


@st.composite
def scored(draw: st.DrawFn, columns: int, high: int = 6) -> Scored:
    """Up to six requests of up to 14 candidates, none in some, and columns of scores with many ties."""
    sizes = draw(st.lists(st.integers(0, 14), max_size=6))
    count = sum(sizes)
    whole = st.lists(st.integers(0, high), min_size=count, max_size=count)
    return requests(*sizes), [floats(*draw(whole)) for _ in range(columns)]
