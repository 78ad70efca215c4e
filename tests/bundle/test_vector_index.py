"""An index of a catalogue's vectors: the same by any engine, and it finds what an exact search finds."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import corank
from corank.bundle.catalogue_index import (
    NEAREST,
    VectorIndexKind,
    VectorPart,
    build_vector_index,
)
from corank.core.errors import ConfigError
from corank.engine.base import Engine, open_engine
from tests.support.engine_tasks import KillingPool
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case

D, SIZES = 8, (900, 0, 1000, 100)


def write_parts(folder: Path) -> tuple[list[VectorPart], np.ndarray]:
    """Parts of vectors that lie around some centres; one is empty."""
    rng, first, parts = np.random.default_rng(3), 0, list[VectorPart]()
    centres = rng.normal(size=(40, D))
    vectors = (centres[rng.integers(0, 40, sum(SIZES))] + 0.5 * rng.normal(size=(sum(SIZES), D))).astype(
        np.float32
    )
    for size in SIZES:
        part = VectorPart(folder / f"{len(parts)}.arrow", first)
        flat = pa.array(vectors[first : first + size].ravel())
        table = pa.table({"vector.prerank": pa.FixedSizeListArray.from_arrays(flat, D)})
        with pa.ipc.new_file(str(part.path), table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
        parts.append(part)
        first += size
    return parts, vectors


def build(folder: Path, kind: VectorIndexKind, parts: list[VectorPart], engine: Engine) -> tuple[Any, str]:
    """Build an index; returns it and the line that is printed."""
    scratch, out = folder / "scratch", folder / "index.faiss"
    scratch.mkdir(parents=True)
    queries = np.random.default_rng(4).normal(size=(50, D)).astype(np.float32)
    line = build_vector_index(kind, "prerank", parts, sum(SIZES), queries, engine, scratch, out)
    return faiss.read_index(str(out)), line


def recall(index: Any, vectors: np.ndarray) -> float:
    """The recall of the index as it was saved, for queries that it was not tuned on."""
    queries = np.random.default_rng(5).normal(size=(50, D)).astype(np.float32)
    true = np.argsort(-queries @ vectors.T, axis=1)[:, :NEAREST]
    ids = index.search(queries, NEAREST)[1]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, ids, strict=True)]))


@pytest.mark.slow
def test_an_index_from_parts_finds_the_nearest_by_any_engine(tmp_path: Path) -> None:
    parts, vectors = write_parts(tmp_path)
    with KillingPool(tmp_path) as pool:
        for kind, least in (("ivf", 0.95), ("ivf_pq", 0.6)):
            index, line = build(tmp_path / f"{kind}.here", kind, parts, open_engine())  # type: ignore[arg-type]
            build(tmp_path / f"{kind}.pool", kind, parts, pool)  # type: ignore[arg-type]
            here, there = (tmp_path / f"{kind}.{where}" / "index.faiss" for where in ("here", "pool"))
            assert here.read_bytes() == there.read_bytes()
            assert index.ntotal == sum(SIZES) and index.metric_type == faiss.METRIC_INNER_PRODUCT
            assert recall(index, vectors) >= least
            assert f"{index.code_size} bytes a vector" in line and "for 50 logged requests" in line
    assert len(list(tmp_path.glob("killed.*"))) == 4
    assert index.code_size == D // 2  # of the last, ivf_pq


def test_vectors_may_bring_an_index(tmp_path: Path) -> None:
    case, lines = shared_case(DERIVED), list[str]()
    assert case.funnel
    out = tmp_path / "vectors.parquet"
    items = str(case.base / "items.parquet")
    corank.vectors(case.base / "bundle", items, out, report=lines.append, index="ivf")
    index: Any = faiss.read_index(str(tmp_path / "vectors.prerank.faiss"))
    vectors = np.ascontiguousarray(pl.read_parquet(out)["vector.prerank"].to_numpy())
    assert index.ntotal == len(vectors)
    index.nprobe = index.nlist
    scores, ids = index.search(vectors, len(vectors))
    exact = np.take_along_axis(vectors @ vectors.T, ids, axis=1)
    np.testing.assert_allclose(scores, exact, atol=1e-4)
    assert "recall@100 by probed lists" in lines[0] and "item vectors" in lines[0]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("kind", "out", "message"),
    [
        ("ivf_pq", "vectors.parquet", "needs 256 items to learn from, and there are 16; take ivf"),
        ("hnsw", "vectors.parquet", "unknown kind of index 'hnsw'"),
        ("ivf", "s3://bucket/vectors.parquet", "the index lies beside OUT, which must be on this machine"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, kind: Any, out: str, message: str) -> None:
    case = shared_case(DERIVED)
    assert case.funnel
    place = out if "://" in out else tmp_path / out
    with pytest.raises(ConfigError, match=message):
        corank.vectors(case.base / "bundle", str(case.base / "items.parquet"), place, index=kind)
    assert not list(tmp_path.iterdir())
