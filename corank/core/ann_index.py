"""Retrieval: the items whose vectors of one towers stage have the largest raw dot product with a query's.

An exact search scores every row. Above some tens of thousands of rows an index (FAISS) scores a share of them, as
large as the asked recall needs. One search is one thread's work, whatever number FAISS is set to.

Letters: N items · d last width of the towers · Q queries · S newer rows beside the N.
"""

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from timeit import timeit
from typing import Annotated, Any, Literal

import faiss
import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray
from pydantic import PositiveInt

from corank.core.errors import BundleError, ConfigError
from corank.core.ordering import top_k
from corank.core.settings import Settings, describe_unknown
from corank.core.types import Floats, Longs, Mask

_untyped: Any = faiss  # its stubs lack some of what it has
EXACT = 50_000
"""So many rows an exact search scores in the time that an index takes (measured: k 1,000, d 32, recall .98)."""
MOST_LISTS = 16_384
ROWS_A_LIST = 64
"""In the sample that k-means learns the lists from."""
ROUNDS = 10
"""Of k-means."""
LINKS = 32
"""Of a node of the graph. With 16, a third of the best are out of reach: raw dot products are no distance."""
WIDEST = 4
"""A search of the graph holds at most so many times k nodes: its time grows faster than they do."""

Kind = Literal["flat", "ivf", "hnsw"]
Found = tuple[Longs, Floats]
"""Positions and dot products, best first."""


class RetrievalSettings(Settings):
    """Where candidates come from when a request brings none."""

    stage: str
    """Whose vectors."""
    keep: PositiveInt = 1000
    """How many, unless the request says otherwise."""
    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"
    """`flat` is exact; `auto` is `flat` up to 50,000 items and `ivf`, inverted lists, above. `hnsw`, a graph, is
    slower and larger than `ivf` at every recall that we measured."""
    recall: Annotated[float, Gt(0), Le(1)] = 0.98
    """What share of the true best `keep` the index is tuned to find."""

    def check(self, stages: Collection[str]) -> None:
        """Raise ConfigError unless `stage` is one of the stages with item vectors."""
        if self.stage not in stages:
            raise ConfigError(f"retrieval.stage: {describe_unknown(self.stage, stages, 'towers stage')}")

    def kind(self, items: int) -> Kind:
        """What `index` comes to for so many."""
        if self.index != "auto":
            return self.index
        return "ivf" if items > EXACT else "flat"


class IndexTuning(Settings):
    """What an index was tuned to."""

    index: Kind
    k: int
    recall: float
    """The share of the true best k that it finds, over the queries it was tuned on; of ties for the last place any."""
    effort: int = 0
    """Lists probed (ivf) or nodes held (hnsw) by a search."""


@dataclass(frozen=True)
class AllowedRows:
    """Which rows a search may give. One serves all searches that allow the same, and keeps what they made of it."""

    mask: Mask
    """(N,); not to be changed any more."""

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> Longs:
        """Their positions, ascending: (count,)."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """A bit a row, lowest first: (⌈N / 8⌉,)."""
        return np.packbits(self.mask, bitorder="little")


def build(vectors: Floats, settings: RetrievalSettings, seed: int) -> faiss.Index | None:
    """An index over vectors (N, d), C-contiguous, memory-mapped or not; None for `flat`, which needs none.

    The same vectors and seed give the same bytes, by any number of threads (a graph: from FAISS 1.15 on).
    """
    index: faiss.Index
    match settings.kind(len(vectors)):
        case "flat":
            return None
        case "ivf":
            index = _lists(vectors, seed)
        case "hnsw":
            index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index


def _lists(vectors: Floats, seed: int) -> faiss.Index:
    items, d = vectors.shape
    lists = max(1, min(round(4 * math.sqrt(items)), items // 4, MOST_LISTS))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(seed)
    index.cp.seed, index.cp.niter = int(random.integers(2**31)), ROUNDS
    # else FAISS samples the sample, or prints that it is small
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, ROWS_A_LIST
    sample = random.choice(items, min(items, ROWS_A_LIST * lists), replace=False)
    index.train(vectors[np.sort(sample)])
    return index


def tune(
    index: faiss.Index | None, vectors: Floats, queries: Floats, settings: RetrievalSettings
) -> IndexTuning:
    """The least effort that finds the asked recall of the true best `keep`, else the largest, and what that finds.

    Args:
        queries: (Q, d), Q ≥ 1, such as requests bring; two hundred tell the recall to about .002.
    """
    k = min(settings.keep, len(vectors))
    if index is None:
        return IndexTuning(index="flat", k=k, recall=1)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    last = [exact(vectors, query, k)[1][-1] for query in queries]

    def recall(effort: int) -> float:
        _, found = index.search(queries, k, params=_parameters(index, effort))
        each = zip(queries, found, last, strict=True)
        true = [(_dots(vectors, rows[rows >= 0], q) >= least).sum() / k for q, rows, least in each]
        return float(np.mean(true))

    efforts = _efforts(index, k)
    effort = efforts[min(bisect_left(efforts, settings.recall, key=recall), len(efforts) - 1)]
    return IndexTuning(index=settings.kind(len(vectors)), k=k, recall=recall(effort), effort=effort)


def _efforts(index: faiss.Index, k: int) -> range:
    """Beyond the largest, an exact search is as fast."""
    return range(1, index.nlist + 1) if isinstance(index, faiss.IndexIVF) else range(k, WIDEST * k + 1)


def _deeper(index: faiss.Index, effort: int, times: float) -> int:
    """The effort that keeps the recall where the last row to find lies so many times deeper among all.

    The lists that hold the best n grow like √n, by measurement; the nodes that lead to them like n.
    """
    return math.ceil(effort * (math.sqrt(times) if isinstance(index, faiss.IndexIVF) else times))


def _parameters(index: faiss.Index, effort: int, allowed: AllowedRows | None = None) -> Any:
    selector = None if allowed is None else _untyped.IDSelectorBitmap(allowed.bits)
    if isinstance(index, faiss.IndexIVF):
        return _untyped.SearchParametersIVF(nprobe=effort, sel=selector)
    return _untyped.SearchParametersHNSW(efSearch=effort, sel=selector)


def write(index: faiss.Index, path: Path) -> None:
    """Raises BundleError where the disk refuses."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise BundleError(f"{path}: cannot be written: {_reason(error)}") from None


def read(path: Path) -> faiss.Index:
    """Memory-mapped: workers share its pages. Raises BundleError where it is missing or FAISS cannot read it.

    FAISS trusts what it reads: prove the file's checksum first.
    """
    try:
        # not IO_FLAG_MMAP: that copies a graph, and has lists read ahead by 32 threads, for which a search waits
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BundleError(f"{path}: no index to read ({_reason(error)}); export the bundle again") from None


def _reason(error: RuntimeError) -> str:
    """Without the place in FAISS's source."""
    return str(error).rpartition("failed: ")[2]


def exact(vectors: Floats, query: Floats, k: int, allowed: AllowedRows | None = None) -> Found:
    """The k best of vectors (N, d), ties by position; fewer where fewer are allowed; none whose product is NaN."""
    # else the kernel reads beyond
    assert query.shape == vectors.shape[1:] and (allowed is None or len(allowed.mask) == len(vectors))
    rows = np.arange(len(vectors)) if allowed is None else allowed.rows
    scores = _dots(vectors, rows, query)
    best = top_k(scores, k)
    return rows[best], scores[best]


def _dots(vectors: Floats, rows: Longs, query: Floats) -> Floats:
    """⟨v, q⟩ of some rows.

    Whatever finds them, this scores them. The kernel takes each row by itself, so that equal vectors tie; BLAS and
    FAISS's kernel for consecutive rows promise no such thing. It is about as fast, and nothing is gathered first.
    """
    d, scores = vectors.shape[1], np.empty(len(rows), dtype=np.float32)
    out, q, v, at = (faiss.swig_ptr(array) for array in (scores, query, vectors, rows))
    _untyped.fvec_inner_products_by_idx(out, q, v, at, d, 1, len(rows))
    return scores


class Retriever:
    """Searches one content of a bundle. Safe to share between threads.

    Args:
        vectors: (N, d), C-contiguous.
        index: over them; None for exact searches.
        tuned: to what.
    """

    def __init__(self, vectors: Floats, index: faiss.Index | None, tuned: IndexTuning) -> None:
        if index is not None and (held := (index.ntotal, index.d)) != vectors.shape:
            raise BundleError(f"index of {held} and vectors of {vectors.shape}; export the bundle again")
        self.vectors, self.index, self.tuned = vectors, index, tuned

    def search(
        self,
        query: Floats,
        k: int,
        allowed: AllowedRows | None = None,
        side: Floats | None = None,
        side_allowed: AllowedRows | None = None,
    ) -> Found:
        """Positions of the k best rows and their dot products, best first, ties by position; fewer if there are fewer.

        Args:
            query: (d,); with a NaN in it, it finds nothing.
            allowed: of the N rows; those that newer rows replace must not be among them.
            side: newer rows (S, d), C-contiguous, searched exactly; their positions are N … N + S − 1.
            side_allowed: of the S.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        positions, scores = self._older(query, k, allowed)
        if side is None:
            return positions, scores
        newer, newer_scores = exact(side, query, k, side_allowed)
        positions = np.concatenate((positions, newer + len(self.vectors)))
        scores = np.concatenate((scores, newer_scores))
        best = top_k(scores, k)
        return positions[best], scores[best]

    def _older(self, query: Floats, k: int, allowed: AllowedRows | None) -> Found:
        rows = self._proposed(query, k, allowed)
        if len(rows) < k:
            return exact(self.vectors, query, k, allowed)
        scores = _dots(self.vectors, rows, query)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _proposed(self, query: Floats, k: int, allowed: AllowedRows | None) -> Longs:
        """By the index: none where an exact search is as fast, few where the allowed are far from the query."""
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
    """Median µs of a search for one of the queries (Q, d), and of an exact one."""
    searches = (retriever.search, partial(exact, retriever.vectors))
    took = [
        [timeit(partial(one, query, retriever.tuned.k), number=1) for query in queries] for one in searches
    ]
    indexed, exactly = np.median(took, axis=1) * 1e6
    return float(indexed), float(exactly)
