"""Indexes of FAISS over stored vectors: inverted lists or a graph, which hold them at the precision of the matrix.

fp16 in an index is the matrix's numbers. For int8 FAISS has scales a dimension and not a row, so that its numbers
differ slightly from the matrix's: the index proposes rows by them, and rows are scored by the matrix.

Letters: N vectors · d their width.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from corank.core.errors import BundleError
from corank.core.matrices.stored_matrix import Precision, StoredMatrix
from corank.core.search.exact_search import _untyped, faiss
from corank.core.types import Floats

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
