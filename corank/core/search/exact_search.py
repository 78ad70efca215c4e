"""Exact search for the vectors with the largest dot product with a query.

Letters: N vectors · d their width.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corank.core.extras import DeferredModule
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ordering import top_k
from corank.core.types import Floats, Longs, Mask

if TYPE_CHECKING:
    import faiss
else:
    faiss = DeferredModule("retrieval", "faiss", "retrieval")

_untyped: Any = faiss  # its stubs are incomplete

BLOCK = 1 << 13
"""Rows that are decoded at once: as many as stay in the cache."""

Found = tuple[Longs, Floats]
"""Positions and dot products, best first."""


@dataclass(frozen=True)
class AllowedRows:
    """The rows that a search may return. Share one among all searches that allow the same: what is derived is kept."""

    mask: Mask
    """(N,); must not be changed any more."""

    @cached_property
    def count(self) -> int:
        """How many rows are allowed."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> Longs:
        """Their positions, ascending: (count,)."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """A bit a row, lowest first: (⌈N / 8⌉,)."""
        return np.packbits(self.mask, bitorder="little")


def search_exactly(vectors: StoredMatrix, query: Floats, k: int, allowed: AllowedRows | None = None) -> Found:
    """Score every allowed row, and return the k best, ties by position.

    Args:
        vectors: (N, d), C-contiguous.
        query: (d,).
        k: how many.
        allowed: the rows that may be returned; all if not given.

    Returns:
        Positions and dot products, best first; fewer than k if fewer rows are allowed or not NaN.
    """
    # otherwise the kernel would read beyond the arrays
    assert query.shape == vectors.shape[1:] and (allowed is None or len(allowed.mask) == len(vectors))
    rows = np.arange(len(vectors)) if allowed is None else allowed.rows
    scores = dot_products(vectors, rows, query)
    best = top_k(scores, k)
    return rows[best], scores[best]


def dot_products(vectors: StoredMatrix, rows: Longs, query: Floats) -> Floats:
    """Compute ⟨v, q⟩ of some rows, in fp32.

    All rows are scored here, whatever search found them. The kernel takes each row by itself, so that equal vectors
    tie; BLAS and FAISS's kernel for consecutive rows do not promise that. It is about as fast, and copies no rows of
    fp32; of a lower precision some are decoded at a time.
    """
    if vectors.precision == "fp32":
        return _dot_products(vectors.values, rows, query)
    every, parts = np.arange(BLOCK), [np.empty(0, dtype=np.float32)]
    for first in range(0, len(rows), BLOCK):
        some = vectors.take(rows[first : first + BLOCK])
        parts.append(_dot_products(some, every[: len(some)], query))
    return np.concatenate(parts)


def _dot_products(vectors: Floats, rows: Longs, query: Floats) -> Floats:
    d, scores = vectors.shape[1], np.empty(len(rows), dtype=np.float32)
    out, q, v, at = (faiss.swig_ptr(array) for array in (scores, query, vectors, rows))
    _untyped.fvec_inner_products_by_idx(out, q, v, at, d, 1, len(rows))
    return scores
