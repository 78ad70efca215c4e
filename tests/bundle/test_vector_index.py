"""An index of a catalogue's vectors: the same by any engine, and it finds what an exact search finds."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import ConfigError
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case


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
