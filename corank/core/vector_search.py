"""Search for the vectors with the largest dot product with a query.

An exact search scores every row. Above some tens of thousands of rows an index (FAISS: inverted lists or a graph)
scores only as many as the wanted recall needs. It holds the vectors at the precision of the matrix: fp16 in an index is
the matrix's numbers; for int8 FAISS has scales a dimension and not a row, so that its numbers differ slightly, and it
proposes rows by them, which are scored by the matrix. A search runs in one thread, whatever number FAISS is set to.

Letters: N vectors · d their width · Q queries · S newer vectors besides the N.
"""

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from timeit import timeit
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import PositiveInt

from corank.core.errors import BundleError, ConfigError
from corank.core.lazy import lazy, require
from corank.core.ordering import top_k
from corank.core.settings import Settings, describe_unknown
from corank.core.stored_matrix import Precision, StoredMatrix
from corank.core.types import Floats, Longs, Mask

if TYPE_CHECKING:
    import faiss
else:
    faiss = lazy("faiss", "retrieval")

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


MOST_LISTS = 16_384
"""Inverted lists, at most."""
ROWS_A_LIST = 64
"""Rows a list in the sample that k-means is fitted to."""
ROUNDS = 10
"""Iterations of k-means."""
LINKS = 32
"""Links of a node of the graph. With 16, a third of the best rows cannot be reached: a dot product is no distance."""
DECODED = 1 << 16
"""Rows that are decoded at once."""

Kind = Literal["flat", "ivf", "hnsw"]
CODES: dict[Precision, str] = {"fp16": "QT_fp16", "int8": "QT_8bit"}
"""FAISS's names of the precisions below fp32."""


def make_index(kind: Kind, vectors: StoredMatrix, seed: int) -> "faiss.Index":
    """Build an index, `ivf` or `hnsw`.

    The same vectors and seed give the same bytes, by any number of threads (a graph: from FAISS 1.15 on).

    Args:
        kind: of the index.
        vectors: (N, d), C-contiguous, memory-mapped or not.
        seed: of the sample that inverted lists and codes are learnt from.
    """
    index = _learn_lists(vectors, seed) if kind == "ivf" else _learn_graph(vectors, seed)
    if vectors.precision == "fp32":
        index.add(vectors.values)
    else:
        for first in range(0, len(vectors), DECODED):
            index.add(vectors.take(np.arange(first, min(first + DECODED, len(vectors)))))
    return index


def count_lists(items: int) -> int:
    """Return how many inverted lists an index of so many vectors has."""
    return max(1, min(round(4 * math.sqrt(items)), items // 4, MOST_LISTS))


def _learn_lists(vectors: StoredMatrix, seed: int) -> "faiss.Index":
    """Inverted lists without a vector yet."""
    items, d = vectors.shape
    lists, centres = count_lists(items), faiss.IndexFlatIP(d)
    if vectors.precision == "fp32":
        index: Any = faiss.IndexIVFFlat(centres, d, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        # codes of whole vectors, not of differences from a centre: those of fp16 are then the matrix's own numbers
        code = _code(vectors.precision)
        index = _untyped.IndexIVFScalarQuantizer(centres, d, lists, code, faiss.METRIC_INNER_PRODUCT, False)
    random = np.random.default_rng(seed)
    index.cp.seed, index.cp.niter = int(random.integers(2**31)), ROUNDS
    # otherwise FAISS samples the sample, or prints that it is small
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, ROWS_A_LIST
    index.train(_sample(vectors, ROWS_A_LIST * lists, random))
    learnt: faiss.Index = index
    return learnt


def _learn_graph(vectors: StoredMatrix, seed: int) -> "faiss.Index":
    """A graph without a node yet."""
    d, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    if vectors.precision == "fp32":
        return faiss.IndexHNSWFlat(d, LINKS, metric)
    index = faiss.IndexHNSWSQ(d, _code(vectors.precision), LINKS, metric)
    index.train(_sample(vectors, DECODED, np.random.default_rng(seed)))
    return index


def _sample(vectors: StoredMatrix, most: int, random: np.random.Generator) -> Floats:
    """Some rows, decoded, in their order."""
    return vectors.take(np.sort(random.choice(len(vectors), min(len(vectors), most), replace=False)))


def _code(precision: Precision) -> Any:
    return getattr(faiss.ScalarQuantizer, CODES[precision])


def refuse_other_index(index: "faiss.Index", kind: Kind, vectors: StoredMatrix) -> None:
    """Raise BundleError unless an index is trained, of a kind, and of vectors as they are stored."""
    precision = vectors.precision
    forms: dict[Kind, tuple[Any, Any]] = {
        "ivf": (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer),
        "hnsw": (faiss.IndexHNSWFlat, faiss.IndexHNSWSQ),
    }
    form = forms[kind][precision != "fp32"] if kind in forms else None
    if form is None or not isinstance(index, form) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise BundleError(
            f"index of {type(index).__name__} in place of {kind} of {precision}; export the bundle again"
        )
    if (shape := (index.ntotal, index.d)) != vectors.shape:
        raise BundleError(f"index of {shape} and vectors of {vectors.shape}; export the bundle again")
    if precision != "fp32":
        storage: Any = index if kind == "ivf" else faiss.downcast_index(index.storage)
        codes = getattr(storage, "sq", None)
        if codes is None or codes.qtype != _code(precision) or (kind == "ivf" and storage.by_residual):
            raise BundleError(f"index of other codes than those of {precision}; export the bundle again")
    if not index.is_trained:
        raise BundleError(f"index of {kind} that has learnt nothing; export the bundle again")


def write_index(index: "faiss.Index", path: Path) -> None:
    """Write an index to a file. Raises BundleError if it cannot be written."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise BundleError(f"{path}: cannot be written: {_reason(error)}") from None


def read_index(path: Path) -> "faiss.Index":
    """Memory-map an index, so that workers share its pages. Raises BundleError if FAISS cannot read it.

    FAISS trusts what it reads: verify the file's checksum first.
    """
    try:
        # not IO_FLAG_MMAP: that copies a graph, and has lists read ahead by 32 threads, for which a search waits
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BundleError(f"{path}: no index to read ({_reason(error)}); export the bundle again") from None


def _reason(error: RuntimeError) -> str:
    """Return the message without the line of FAISS's source."""
    return str(error).rpartition("failed: ")[2]


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
        require("faiss", "retrieval")  # an exact search has a kernel of it
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
