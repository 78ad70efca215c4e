"""A FAISS index of a catalogue's vectors: learnt from a sample, filled part by part, measured against exact search.

Letters: N vectors of a part · d their width · Q queries · k neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import VECTOR
from corank.core.arrays import read_array, write_array
from corank.core.errors import ConfigError
from corank.core.files import atomic_file
from corank.core.hash_index import splitmix64
from corank.core.lazy import lazy
from corank.core.settings import describe_unknown
from corank.core.types import Floats, Longs
from corank.core.vector_search import ROUNDS, ROWS_A_LIST, count_lists, write_index
from corank.data.packing.workspace import write_beside
from corank.engine.base import Engine

if TYPE_CHECKING:
    import faiss
else:
    faiss = lazy("faiss", "retrieval")

_untyped: Any = faiss  # its stubs lack some of what it has

VectorIndexKind = Literal["ivf", "ivf_pq"]
"""Inverted lists of whole vectors, or of product-quantised ones."""
NEAREST, QUERIES = 100, 256
"""The k of recall@k, and by how many queries it is measured."""
WANTED = 0.98
"""The recall that the saved number of probed lists reaches, if it can."""
CENTROIDS = 256
"""Of each part of a product-quantised vector, which takes a byte."""


@dataclass(frozen=True)
class VectorPart:
    """A file of some vectors of the catalogue."""

    path: Path
    first: int
    """The number of its first item among all that are written."""

    def read(self, stage: str) -> Floats:
        """Read the vectors of a stage: (N, d)."""
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_file(source) as file:
            column = file.read_all().column(f"vector.{stage}").combine_chunks()
            flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(-1, column.type.list_size)


@dataclass(frozen=True)
class SampleVectors:
    """The task that draws some vectors of a part, by the hash of an item's number."""

    stage: str
    share: float
    """Of all vectors."""
    folder: Path

    def path(self, part: VectorPart) -> Path:
        """Return where the sample of a part is written."""
        return self.folder / f"{part.path.stem}.npy"

    def __call__(self, part: VectorPart) -> None:
        """Write the sample."""
        vectors = part.read(self.stage)
        hashes = splitmix64(np.arange(part.first, part.first + len(vectors), dtype=np.uint64))
        with write_beside(self.path(part)) as partial:
            write_array(partial, vectors[hashes / 2.0**64 < self.share])


@dataclass(frozen=True)
class FillIndex:
    """The task that puts a part into a copy of the learnt index, and finds the nearest of its vectors exactly."""

    stage: str
    learnt: Path
    queries: Path
    folder: Path

    def path(self, part: VectorPart, what: str) -> Path:
        """Return where something of a part is written: its `index`, and `scores` and `rows` of its nearest."""
        return self.folder / f"{part.path.stem}.{what}"

    def __call__(self, part: VectorPart) -> None:
        """Write the index and the nearest. Raises BundleError."""
        vectors, queries = np.ascontiguousarray(part.read(self.stage)), read_array(self.queries)
        if not len(vectors):
            return
        index = faiss.read_index(str(self.learnt))
        index.add_with_ids(vectors, np.arange(part.first, part.first + len(vectors)))
        with write_beside(self.path(part, "index")) as partial:
            write_index(index, partial)
        k = min(NEAREST, len(vectors))
        scores, rows = _untyped.knn(np.array(queries), vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
        for what, values in (("scores", scores), ("rows", rows + part.first)):
            with write_beside(self.path(part, what)) as partial:
                write_array(partial, values)


def check_index(kind: VectorIndexKind, items: int, manifest: BundleManifest, parts: Sequence[str]) -> None:
    """Raise ConfigError for an index that cannot be built.

    Args:
        kind: of the index.
        items: how many there are; some kinds need more.
        manifest: of the bundle, in which a stage must order by a product of vectors.
        parts: `STAGE.PART` that are written; these vectors must be among them.
    """
    if kind not in get_args(VectorIndexKind):
        raise ConfigError(f"--index: {describe_unknown(kind, get_args(VectorIndexKind), 'kind of index')}")
    if not manifest.product_stages:
        raise ConfigError(f"--index {kind}: no stage orders by a product of item vectors; leave it out")
    if absent := [s for s in manifest.product_stages if f"{s}.{VECTOR}" not in parts]:
        raise ConfigError(f"--index {kind}: needs --part {absent[0]}.{VECTOR}, too")
    if kind == "ivf_pq" and items < CENTROIDS:
        raise ConfigError(
            f"--index ivf_pq: learns from {CENTROIDS} items or more, not from {items}; take ivf"
        )


def learn_index(kind: VectorIndexKind, items: int, sample: Floats) -> "faiss.IndexIVF":
    """Learn an index of no vectors yet from a sample of `items` vectors: (·, d)."""
    d = sample.shape[1]
    lists = min(count_lists(items), len(sample))
    codes = max(m for m in range(1, d // 2 + 1 if d > 1 else 2) if d % m == 0)
    form = f"IVF{lists},Flat" if kind == "ivf" else f"IVF{lists},PQ{codes}x8"
    # by the factory, whose lists go by direction: k-means by plain dot products may put nearly all into one list
    made: Any = _untyped.index_factory(d, form, faiss.METRIC_INNER_PRODUCT)
    made.cp.seed, made.cp.niter = 0, ROUNDS
    # otherwise FAISS samples the sample, or prints that it is small
    made.cp.min_points_per_centroid, made.cp.max_points_per_centroid = 1, ROWS_A_LIST
    if kind == "ivf_pq":
        made.pq.cp.min_points_per_centroid, made.pq.cp.niter = 1, ROUNDS
        # it would order codes for a filter that is not used, and takes most of the time
        made.do_polysemous_training = False
    made.train(np.ascontiguousarray(sample))
    index: faiss.IndexIVF = made
    return index


def build_vector_index(
    kind: VectorIndexKind,
    stage: str,
    parts: Sequence[VectorPart],
    items: int,
    queries: Floats | None,
    engine: Engine,
    scratch: Path,
    out: Path,
) -> str:
    """Build and measure the index of a stage's vectors. A vector's id is its item's row in the file of vectors.

    Args:
        kind: of the index.
        stage: whose vectors.
        parts: of the catalogue.
        items: how many vectors they have.
        queries: (Q, d), of logged requests; some of the vectors if None.
        engine: runs the tasks; the merged index is held by this process.
        scratch: a folder for files.
        out: the index's file.

    Returns:
        A line with its recall.

    Raises BundleError, ConfigError, OSError.
    """
    # at least what a byte of code needs; a draw by hash varies about the share
    wanted = 1.1 * max(ROWS_A_LIST * count_lists(items), 4 * CENTROIDS)
    draw = SampleVectors(stage, min(1.0, wanted / items), scratch / f"{stage}.sample")
    engine.run(draw, parts)
    sample = np.concatenate([read_array(draw.path(part)) for part in parts])
    asked = sample[:: max(1, len(sample) // QUERIES)][:QUERIES] if queries is None else queries[:QUERIES]
    fill = FillIndex(
        stage, scratch / f"{stage}.learnt", scratch / f"{stage}.queries.npy", scratch / f"{stage}.filled"
    )
    write_array(fill.queries, np.ascontiguousarray(asked))
    write_index(learn_index(kind, items, sample), fill.learnt)
    del sample
    engine.run(fill, parts)
    index: Any = faiss.read_index(str(fill.learnt))
    filled = [part for part in parts if fill.path(part, "index").exists()]
    for part in filled:
        index.merge_from(faiss.read_index(str(fill.path(part, "index"))), 0)
        fill.path(part, "index").unlink()
    recalls = _measure_recall(index, np.ascontiguousarray(asked), _nearest(fill, filled))
    index.nprobe = next((n for n, recall in recalls.items() if recall >= WANTED), max(recalls))
    with atomic_file(out) as partial:
        write_index(index, partial)
    shown = ", ".join(f"{recall:.3f} of {n}" for n, recall in recalls.items())
    whose = "item vectors" if queries is None else "logged requests"
    return (
        f"{out}: {kind}, {index.nlist:,} lists, {index.code_size} bytes a vector; recall@{NEAREST} by probed lists, "
        f"for {len(asked)} {whose}: {shown}; saved with {index.nprobe}"
    )


def _nearest(fill: FillIndex, parts: Sequence[VectorPart]) -> Longs:
    """The exact nearest of all parts: (Q, k)."""
    scores, rows = (
        np.concatenate([read_array(fill.path(part, what)) for part in parts], axis=1)
        for what in ("scores", "rows")
    )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
    nearest: Longs = np.take_along_axis(rows, best, axis=1)
    return nearest


def _measure_recall(index: "faiss.IndexIVF", queries: Floats, nearest: Longs) -> dict[int, float]:
    """The share of the nearest (Q, k) that a search finds, by the number of lists that it probes."""
    k, recalls = nearest.shape[1], dict[int, float]()
    for probed in sorted({min(4**n, index.nlist) for n in range(8)}):
        parameters = _untyped.SearchParametersIVF(nprobe=probed)
        neighbours = index.search(queries, k, params=parameters)[1]
        each = [np.isin(a, b).mean() for a, b in zip(nearest, neighbours, strict=True)]
        recalls[probed] = float(np.mean(each))
    return recalls
