"""Item parts: what stages compute of an item alone, such as its vector, for every record ahead of requests.

A part is called `STAGE.PART`: a stage's graph `STAGE.item.onnx` computes its parts from the records of items, and
`items/part.STAGE.PART.npy` has a row for every item.

Letters: N items · d width of a part.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from corank.bundle.graph_files import open_session
from corank.bundle.stage_facts import StageFacts
from corank.core.errors import BundleError
from corank.core.matrices.matrix_files import write_matrix
from corank.core.matrices.stored_matrix import StoredMatrix
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


class ItemGraphs:
    """The graphs of a bundle's stages that compute item parts."""

    def __init__(
        self,
        folder: Path,
        stages: Iterable[StageFacts],
        layout: Layout,
        tables: Mapping[str, TableSet],
        threads: int = 0,
    ) -> None:
        """Open the graphs.

        Args:
            folder: the content of the bundle.
            stages: of the bundle; those without item parts have no such graph.
            layout: of dense inputs.
            tables: by name of the set.
            threads: that a graph runs on; 0 for a thread a core.

        Raises BundleError.
        """
        self._layout, self._tables = layout, tables
        self._stages = [stage for stage in stages if stage.item_parts]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        shapes = {placement: (None, width) for placement, width in layout.record_widths.items()}
        self._graphs = {
            stage.name: open_session(
                folder / f"{stage.name}.item.onnx",
                shapes,
                [(None, width) for width in stage.item_parts.values()],
                options,
            )
            for stage in self._stages
        }

    def compute(self, rows: Rows) -> dict[str, Floats]:
        """Compute the parts of the records of N items: (N, d) by `STAGE.PART`."""
        parts: dict[str, Floats] = {}
        for stage in self._stages:
            inputs = record_inputs(self._layout, rows, self._tables[stage.tables])
            outputs = self._graphs[stage.name].run(None, inputs)
            parts |= {part.name: matrix for part, matrix in zip(stage.parts, outputs, strict=True)}
        return parts

    def compute_all(self, rows: Rows) -> dict[str, Floats]:
        """The same for any number of items. Raises BundleError if a part is not finite."""
        starts = range(0, max(len(rows), 1), ITEMS_AT_ONCE)
        some = [rows.take(np.arange(first, min(first + ITEMS_AT_ONCE, len(rows)))) for first in starts]
        pieces = [self.compute(one) for one in some]
        parts = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for name, matrix in parts.items():
            if not np.isfinite(matrix).all():
                odd = (~np.isfinite(matrix)).any(1).sum()
                raise BundleError(f"{name}: that of {odd} items is not finite")
        return parts


def store_parts(parts: Mapping[str, Floats], stages: Iterable[StageFacts]) -> dict[str, StoredMatrix]:
    """Store the parts of N items, (N, d) by `STAGE.PART`, at the precision in the facts of their stages.

    Raises DataError for a number that is too large for it.
    """
    part_facts = (part for stage in stages for part in stage.parts if part.name in parts)
    return {one.name: StoredMatrix.encode(parts[one.name], one.precision, one.name) for one in part_facts}


def part_file(folder: Path, part: str) -> Path:
    """The file of an item part, `STAGE.PART`, in the content of a bundle."""
    return folder / "items" / f"part.{part}.npy"


def save_parts(folder: Path, parts: Mapping[str, StoredMatrix]) -> None:
    """Write `items/part.STAGE.PART.npy` of a bundle's content."""
    for part, matrix in parts.items():
        write_matrix(part_file(folder, part), matrix)
