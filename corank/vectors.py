"""Item vectors: what an item tower's graph makes of every record, ahead of any request.

Letters: N items · d last width of the towers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from corank.arrays import write_array
from corank.errors import BundleError
from corank.layout import Layout, dense
from corank.rows import Floats, Rows

ITEMS_AT_ONCE = 65_536


def write_vectors(
    folder: Path,
    towers: Mapping[str, str],
    layout: Layout,
    rows: Rows,
    tables: Mapping[str, Mapping[int, Floats]],
) -> dict[str, Floats]:
    """Write `items/vectors.<stage>.npy` of a bundle's content, for each stage of `towers` and the tables it reads."""
    vectors: dict[str, Floats] = {}
    for stage, held in towers.items():
        vectors[stage] = item_vectors(folder / f"{stage}.item.onnx", layout, rows, tables[held])
    save_vectors(folder, vectors)
    return vectors


def save_vectors(folder: Path, vectors: Mapping[str, Floats]) -> None:
    """Of a bundle's content, by towers stage."""
    for stage, held in vectors.items():
        write_array(folder / "items" / f"vectors.{stage}.npy", held)


def item_vectors(graph: Path, layout: Layout, rows: Rows, tables: Mapping[int, Floats]) -> Floats:
    """An item tower's vectors of N rows: (N, d). Raises BundleError where one is not finite."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    parts = []
    for first in range(0, len(rows), ITEMS_AT_ONCE):
        index = np.arange(first, min(first + ITEMS_AT_ONCE, len(rows)))
        parts += session.run(None, {"item": dense(rows.take(index), layout.groups["item"], tables)})
    vectors: Floats = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise BundleError(f"{graph.stem}: {(~np.isfinite(vectors)).any(1).sum()} item vectors are not finite")
    return vectors
