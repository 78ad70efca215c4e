"""The example that makes vectors of texts, run as a user runs it, and read by packing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.ragged import Vectors
from corank.features.kinds.vector import VectorFeature

ROOT = Path(__file__).parents[2]
TITLES = ["red shoes", "red shoe for men", "a fast blue car", "blue cars, and fast", None, ""]


def test_texts_that_share_words_or_parts_of_words_are_alike(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": range(6), "title": TITLES, "tags": ["x"] * 4 + [None, None]}).write_parquet(
        tmp_path / "items.parquet"
    )
    script = str(ROOT / "examples" / "text_vectors.py")
    command = [sys.executable, script, "items.parquet", "out.parquet"]
    done = subprocess.run(
        [*command, "--text", "title", "--dim", "3"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "out.parquet: 6 vectors of 3 numbers\n"
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert frame.schema == {"item_id": pl.Int64(), "text": pl.Array(pl.Float32, 3)}
    feature = VectorFeature(kind="vector", side="item", dim=3, normalise=True)
    vectors = feature.encode(None, frame["text"], "text")
    assert isinstance(vectors, Vectors)
    assert (vectors.row < 0).tolist() == [False] * 4 + [True] * 2
    alike = vectors.dense() @ vectors.dense().T
    assert min(alike[0, 1], alike[2, 3]) > 0.2
    assert np.abs(alike[:2, 2:4]).max() < 0.1
