"""Small requests with scores, by hand and at random, for tests of the cascade's metrics."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from corank.metrics.requests import Requests


def floats(*values):
    return np.array(values, dtype=np.float64)


def labels(*values):
    return np.array(values, dtype=np.int8)


def requests(*sizes, user=None):
    start = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Requests(start, np.arange(len(sizes)) if user is None else np.array(user))


def order(scores, rows):
    """Some rows, the highest score first, ties in the log's order."""
    return sorted(rows, key=lambda row: (-scores[row], row))


def rows_of(some):
    """The rows of each request."""
    return [range(begin, end) for begin, end in pairwise(some.start)]


@st.composite
def scored(draw, columns, high=6):
    """Up to six requests of up to 14 candidates, none in some, and columns of scores with many ties."""
    sizes = draw(st.lists(st.integers(0, 14), max_size=6))
    count = sum(sizes)
    whole = st.lists(st.integers(0, high), min_size=count, max_size=count)
    return requests(*sizes), *(floats(*draw(whole)) for _ in range(columns))
