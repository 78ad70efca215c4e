"""Item vectors: the outputs of the item towers for every record, computed ahead of requests.

Letters: N items · d last width of the towers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from corank.bundle.graph_files import open_session
from corank.core.errors import BundleError
from corank.core.matrices.matrix_files import write_matrix
from corank.core.matrices.stored_matrix import Precision, StoredMatrix
from corank.core.ragged import Rows
from corank.core.types import Floats
from corank.features.encoders import split_record
from corank.features.input_layout import Layout, TableSet, dense_input
from corank.features.schema import RECORD_PLACEMENTS

ITEMS_AT_ONCE = 65_536
"""Items a run of a graph."""


def record_inputs(layout: Layout, records: Rows, tables: TableSet) -> dict[str, Floats]:
    """The dense inputs of the records of N items, by the names of `Layout.record_widths`: (N, width) each."""
    sides = zip(RECORD_PLACEMENTS, split_record(layout.schema, records), strict=True)
    return {str(p): dense_input(rows, layout, p, tables) for p, rows in sides if p in layout.record_widths}


class ItemTowers:
    """The item towers of a bundle, for many items, not for a request."""

    def __init__(
        self,
        folder: Path,
        towers: Mapping[str, str],
        layout: Layout,
        tables: Mapping[str, TableSet],
        threads: int = 0,
    ) -> None:
        """Open the towers.

        Args:
            folder: the content of the bundle.
            towers: stage → the set of tables that it reads.
            layout: of dense inputs.
            tables: by name of the set.
            threads: that a graph runs on; 0 for a thread a core.
        """
        self._layout = layout
        self._tables = {stage: tables[held] for stage, held in towers.items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        shapes = {placement: (None, width) for placement, width in layout.record_widths.items()}
        self._graphs = {
            stage: open_session(folder / f"{stage}.item.onnx", shapes, options=options) for stage in towers
        }

    def vectors(self, rows: Rows) -> dict[str, Floats]:
        """Compute the vectors of the records of N items: stage → (N, d). Raises BundleError if one is not finite."""
        return {stage: self._vectors(stage, rows) for stage in self._graphs}

    def _vectors(self, stage: str, rows: Rows) -> Floats:
        parts = []
        for first in range(0, len(rows), ITEMS_AT_ONCE):
            some = rows.take(np.arange(first, min(first + ITEMS_AT_ONCE, len(rows))))
            given = record_inputs(self._layout, some, self._tables[stage])
            parts += self._graphs[stage].run(None, given)
        vectors: Floats = np.concatenate(parts)
        if not np.isfinite(vectors).all():
            odd = (~np.isfinite(vectors)).any(1).sum()
            raise BundleError(f"{stage}.item: {odd} item vectors are not finite")
        return vectors


def vector_file(folder: Path, stage: str) -> Path:
    """The file of a stage's item vectors in a bundle's content."""
    return folder / "items" / f"vectors.{stage}.npy"


def encode_vectors(
    vectors: Mapping[str, Floats], precisions: Mapping[str, Precision]
) -> dict[str, StoredMatrix]:
    """Store the vectors of N items, by stage (N, d), at the precision of each stage.

    Raises DataError for a number that is too large for it.
    """
    return {
        stage: StoredMatrix.encode(held, precisions[stage], f"{stage}.vector")
        for stage, held in vectors.items()
    }


def save_vectors(folder: Path, vectors: Mapping[str, StoredMatrix]) -> None:
    """Write `items/vectors.<stage>.npy` of a bundle's content."""
    for stage, held in vectors.items():
        write_matrix(vector_file(folder, stage), held)
