"""Vectors of texts, made without a network and without a model.

Letters: N texts · n of them in training · C columns, hashes of words · D numbers of a vector.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from corank.core.lazy import lazy
from corank.core.types import Doubles, Floats, Mask

if TYPE_CHECKING:
    from scipy.sparse import csr_array

sparse = lazy("scipy.sparse", "vectors of texts")

COLUMNS = 2**18
_WORD = re.compile(r"\w\w+")
_SPARE, _ROUNDS = 10, 5


def embed_texts(texts: Sequence[str], train: Mask, size: int) -> Floats:
    """Turn texts into vectors: hashed words and pairs of words, weighted by rarity, and an SVD.

    Latent semantic analysis (Deerwester et al., 1990), fitted to the texts that training has, of unit length.

    Args:
        texts: N texts.
        train: (N,) which of them to fit to.
        size: numbers of a vector, D.

    Returns:
        (N, D), where D is less than `size` if training has too few texts.
    """
    weights = _weigh(count_words(texts), train)
    # an SVD has no more directions than texts
    vectors = weights @ _find_directions(weights[train], min(size, int(train.sum()) - 1)).T
    return _to_unit_length(vectors).astype(np.float32)


def count_words(texts: Sequence[str]) -> "csr_array":
    """Count the words of two letters or more, and the pairs of consecutive ones, by the hash of each: (N, C)."""
    columns = [[crc32(term.encode()) % COLUMNS for term in _terms(text)] for text in texts]
    ends = np.cumsum([0, *map(len, columns)], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(columns), dtype=np.int64, count=int(ends[-1]))
    counts = sparse.csr_array((np.ones(len(flat)), flat, ends), shape=(len(texts), COLUMNS))
    counts.sum_duplicates()
    return counts


def _terms(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    yield from words
    yield from map(" ".join, pairwise(words))


def _weigh(counts: "csr_array", train: Mask) -> "csr_array":
    """Weigh a count c by 1 + ln c and by rarity, ln((1 + n) / (1 + texts that have it)) + 1; rows of unit length."""
    having = np.bincount(counts[train].indices, minlength=COLUMNS)
    rarity = np.log((1 + train.sum()) / (1 + having)) + 1
    weights = (1 + np.log(counts.data)) * rarity[counts.indices]
    of_text = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    length = np.sqrt(np.bincount(of_text, weights**2, minlength=counts.shape[0]))
    return sparse.csr_array((weights / length[of_text], counts.indices, counts.indptr), shape=counts.shape)


def _find_directions(rows: "csr_array", size: int) -> Doubles:
    """Find the first right singular vectors of n rows: (D, C).

    By random projections and power iterations (Halko, Martinsson and Tropp, Finding structure with randomness, SIAM
    Review 2011, algorithms 4.4 and 5.1).
    """
    used = np.unique(rows.indices)
    dense = rows[:, used]
    basis = np.random.default_rng(0).standard_normal((len(used), size + _SPARE))
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(dense.T @ np.linalg.qr(dense @ basis)[0])[0]
    left = np.linalg.qr(dense @ basis)[0]
    vectors = np.linalg.svd((dense.T @ left).T, full_matrices=False)[2][:size]
    directions = np.zeros((len(vectors), rows.shape[1]))
    directions[:, used] = vectors
    return directions


def _to_unit_length(vectors: Doubles) -> Doubles:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Doubles = vectors / np.where(norm > 0, norm, 1)
    return unit
