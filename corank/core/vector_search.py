"""Exact search for the vectors with the largest dot product with a query, and the settings of retrieval.

Letters: N vectors · d their width · M rows that may be returned.
"""

from collections.abc import Collection

import numpy as np
from pydantic import PositiveInt

from corank.core.errors import ConfigError
from corank.core.ordering import top_k
from corank.core.settings import Settings, describe_unknown
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs

BLOCK = 1 << 13
"""Rows that are decoded at once: as many as stay in the cache."""


def search_vectors(
    vectors: StoredMatrix, query: Floats, k: int, allowed: Longs | None = None
) -> tuple[Longs, Floats]:
    """Score every allowed row, and return the k best, ties by position.

    Args:
        vectors: (N, d).
        query: (d,); one with a NaN finds nothing.
        k: how many.
        allowed: ascending positions of the rows that may be returned (M,); all by default.

    Returns:
        Positions and dot products, best first; fewer than k if fewer rows are allowed.

    Example:
        >>> stored = StoredMatrix(np.array([[1, 0], [3, 0], [2, 0]], dtype=np.float32))
        >>> search_vectors(stored, np.array([1, 0], dtype=np.float32), 2)[0].tolist()
        [1, 2]
    """
    scores = dot_products(vectors, query, allowed)
    best = top_k(scores, k)
    return best if allowed is None else allowed[best], scores[best]


def dot_products(vectors: StoredMatrix, query: Floats, rows: Longs | None = None) -> Floats:
    """Compute ⟨v, q⟩ of some rows in fp32, of all by default: (M,).

    Each row is multiplied by itself, so that equal vectors tie wherever they lie, which a product of the whole matrix
    does not promise.
    """
    count = len(vectors) if rows is None else len(rows)
    scores = np.empty(count, dtype=np.float32)
    for first in range(0, count, BLOCK):
        part = slice(first, first + BLOCK)
        some = vectors.part(part) if rows is None else vectors.select(rows[part])
        np.vecdot(some.decode(), query, out=scores[part])
    return scores


class RetrievalSettings(Settings):
    """How candidates are retrieved if a request brings none: an exact search of a stage's item vectors."""

    stage: str
    """The towers stage whose vectors are searched."""
    keep: PositiveInt = 1000
    """Candidates to retrieve, unless the request says otherwise."""

    def check(self, stages: Collection[str]) -> None:
        """Raise ConfigError unless `stage` is one of the stages with item vectors."""
        if self.stage not in stages:
            raise ConfigError(f"retrieval.stage: {describe_unknown(self.stage, stages, 'towers stage')}")
