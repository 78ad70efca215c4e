"""Search for the vectors with the largest dot product with a query.

An exact search scores every row. Above some tens of thousands of rows an index (FAISS) scores only as many as the
wanted recall needs. A search runs in one thread, whatever number FAISS is set to.

Letters: N vectors · d their width · Q queries · S newer vectors besides the N.
"""

import math
from bisect import bisect_left
from collections.abc import Collection
from functools import partial
from timeit import timeit
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from pydantic import PositiveInt

from corank.core.errors import BundleError, ConfigError
from corank.core.extras import require
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ordering import top_k
from corank.core.search.exact_search import AllowedRows, Found, _untyped, dot_products, faiss, search_exactly
from corank.core.search.faiss_index import Kind, make_index, refuse_other_index
from corank.core.settings import Settings, describe_unknown
from corank.core.types import Floats, Longs

EXACT = 50_000
"""An exact search scores this many rows in the time that an index takes (measured: k 1,000, d 32, recall .98)."""
WIDEST = 4
"""A search of the graph holds at most this many times k nodes: its time grows faster than their number."""


class RetrievalSettings(Settings):
    """How candidates are retrieved if a request brings none."""

    stage: str
    """The towers stage whose vectors are searched."""
    keep: PositiveInt = 1000
    """Candidates to retrieve, unless the request says otherwise."""
    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"
    """`flat` is exact; `auto` is `flat` up to 50,000 items and `ivf`, inverted lists, above. `hnsw`, a graph, is
    slower and larger than `ivf` at every recall that was measured."""
    recall: Annotated[float, Gt(0), Le(1)] = 0.98
    """The share of the true best `keep` that the index is tuned to find."""

    def check(self, stages: Collection[str]) -> None:
        """Raise ConfigError unless `stage` is one of the stages with item vectors."""
        if self.stage not in stages:
            raise ConfigError(f"retrieval.stage: {describe_unknown(self.stage, stages, 'towers stage')}")

    def kind(self, items: int) -> Kind:
        """Return the kind of index for a number of items."""
        if self.index != "auto":
            return self.index
        return "ivf" if items > EXACT else "flat"


class IndexTuning(Settings):
    """The effort that an index was tuned to, and what it finds."""

    index: Kind
    k: PositiveInt
    recall: float
    """The share of the true best k that it finds, over the queries it was tuned on; of ties for the last rank any."""
    effort: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Lists probed (ivf) or nodes held (hnsw) by a search."""


def build(vectors: StoredMatrix, settings: RetrievalSettings, seed: int) -> "faiss.Index | None":
    """Build an index of the kind of the settings over vectors (N, d); None for `flat`, which needs none."""
    kind = settings.kind(len(vectors))
    return None if kind == "flat" else make_index(kind, vectors, seed)


def tune_effort(
    index: "faiss.Index | None", vectors: StoredMatrix, queries: Floats, settings: RetrievalSettings
) -> IndexTuning:
    """Find the least effort that reaches the wanted recall of the true best `keep`, or the largest effort.

    Args:
        index: over the vectors; None for exact searches.
        vectors: (N, d).
        queries: (Q, d), Q ≥ 1, from logged requests; two hundred give the recall to about .002.
        settings: `keep` and `recall`.
    """
    k = min(settings.keep, len(vectors))
    if index is None:
        return IndexTuning(index="flat", k=k, recall=1)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    last = [search_exactly(vectors, query, k)[1][-1] for query in queries]

    def recall(effort: int) -> float:
        _, neighbours = index.search(queries, k, params=_parameters(index, effort))
        each = zip(queries, neighbours, last, strict=True)
        true = [(dot_products(vectors, rows[rows >= 0], q) >= least).sum() / k for q, rows, least in each]
        return float(np.mean(true))

    efforts = _efforts(index, k)
    effort = efforts[min(bisect_left(efforts, settings.recall, key=recall), len(efforts) - 1)]
    return IndexTuning(index=settings.kind(len(vectors)), k=k, recall=recall(effort), effort=effort)


def _efforts(index: "faiss.Index", k: int) -> range:
    """Return the efforts to choose from; beyond the largest, an exact search is as fast."""
    return range(1, index.nlist + 1) if isinstance(index, faiss.IndexIVF) else range(k, WIDEST * k + 1)


def _deeper(index: "faiss.Index", effort: int, times: float) -> int:
    """Return the effort that keeps the recall if the last row to find has a rank `times` as high among all rows.

    The lists that hold the best n grow like √n, by measurement; the nodes that lead to them like n.
    """
    return math.ceil(effort * (math.sqrt(times) if isinstance(index, faiss.IndexIVF) else times))


def _parameters(index: "faiss.Index", effort: int, allowed: AllowedRows | None = None) -> Any:
    selector = None if allowed is None else _untyped.IDSelectorBitmap(allowed.bits)
    if isinstance(index, faiss.IndexIVF):
        return _untyped.SearchParametersIVF(nprobe=effort, sel=selector)
    return _untyped.SearchParametersHNSW(efSearch=effort, sel=selector)


class Retriever:
    """Searches the vectors of one bundle. Safe to share between threads.

    Args:
        vectors: (N, d), C-contiguous.
        index: over the vectors; None for exact searches.
        tuned: what the index was tuned to.
    """

    def __init__(self, vectors: StoredMatrix, index: "faiss.Index | None", tuned: IndexTuning) -> None:
        require("retrieval", "faiss", "retrieval")  # an exact search has a kernel of it
        if index is not None:
            refuse_other_index(index, tuned.index, vectors)
            if isinstance(index, faiss.IndexIVF) and not 1 <= tuned.effort <= index.nlist:
                raise BundleError(
                    f"index of {index.nlist:,} lists and an effort of {tuned.effort:,}; export the bundle again"
                )
        self.vectors, self.index, self.tuned = vectors, index, tuned

    def search(
        self,
        query: Floats,
        k: int,
        allowed: AllowedRows | None = None,
        newer: StoredMatrix | None = None,
        newer_allowed: AllowedRows | None = None,
    ) -> Found:
        """Find the k best rows, ties by position.

        Args:
            query: (d,); one with a NaN finds nothing.
            k: how many.
            allowed: of the N rows; must leave out those that newer rows replace.
            newer: newer rows (S, d), C-contiguous, searched exactly; their positions are N … N + S − 1.
            newer_allowed: of the S rows.

        Returns:
            Positions and dot products, best first; fewer than k if there are fewer.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        positions, scores = self._search(query, k, allowed)
        if newer is None:
            return positions, scores
        more, more_scores = search_exactly(newer, query, k, newer_allowed)
        positions = np.concatenate((positions, more + len(self.vectors)))
        scores = np.concatenate((scores, more_scores))
        best = top_k(scores, k)
        return positions[best], scores[best]

    def _search(self, query: Floats, k: int, allowed: AllowedRows | None) -> Found:
        """Find the k best of the N rows."""
        rows = self._propose(query, k, allowed)
        if len(rows) < k:
            return search_exactly(self.vectors, query, k, allowed)
        scores = dot_products(self.vectors, rows, query)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _propose(self, query: Floats, k: int, allowed: AllowedRows | None) -> Longs:
        """Find rows by the index: none if an exact search is as fast, few if the allowed are far from the query."""
        count = len(self.vectors) if allowed is None else allowed.count
        if self.index is None or (allowed is not None and count <= EXACT):
            return np.empty(0, dtype=np.int64)
        times = max(1, k * len(self.vectors) / count / self.tuned.k)
        effort = _deeper(self.index, self.tuned.effort, times)
        if effort > _efforts(self.index, self.tuned.k)[-1]:
            return np.empty(0, dtype=np.int64)
        rows: Longs = self.index.search(query[None], k, params=_parameters(self.index, effort, allowed))[1][0]
        return rows[rows >= 0]


def time_searches(retriever: Retriever, queries: Floats) -> tuple[float, float]:
    """Measure searches for each of the queries (Q, d). Returns the median µs of one, and of an exact one."""
    searches = (retriever.search, partial(search_exactly, retriever.vectors))
    seconds = [
        [timeit(partial(one, query, retriever.tuned.k), number=1) for query in queries] for one in searches
    ]
    indexed, exactly = np.median(seconds, axis=1) * 1e6
    return float(indexed), float(exactly)
