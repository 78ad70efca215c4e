"""Reads parts of a bundle's content folder: embedding tables, item parts, snapshots of priors.

Item parts are what stages compute of an item alone, such as its vector, for every record ahead of requests. A part is
called `STAGE.PART`: the graph `STAGE.item.onnx` computes a stage's parts from the records of items, and
`items/part.STAGE.PART.npy` has a row for every item.

Letters: N items · d width of a part.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from corank.bundle.graph_files import open_session
from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords, check_ascending, check_finite, check_matrix
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.arrays import read_array
from corank.core.errors import BundleError, DataError, StoreError
from corank.core.ragged import Rows
from corank.core.stored_matrix import StoredMatrix, read_matrix, write_matrix
from corank.core.subnormal import flush_subnormals
from corank.core.types import Floats
from corank.data.packed.dataset import prior_folder
from corank.features.encoders import Encoders, split_record
from corank.features.encoding import RECORD_PLACEMENTS
from corank.features.input_layout import Layout, TableSet, dense_input
from corank.features.priors import SMOOTHING, CountedFeature, CumulativeCounts, PriorCounts, PriorSnapshots

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
        shapes = {placement: (None, width) for placement, width in layout.record_widths.items()}
        self._graphs = {
            stage.name: open_session(
                folder / f"{stage.name}.item.onnx",
                shapes,
                [(None, width) for width in stage.item_parts.values()],
                threads,
            )
            for stage in self._stages
        }

    def compute(self, rows: Rows) -> dict[str, Floats]:
        """Compute the parts of the records of N items: (N, d) by `STAGE.PART`."""
        parts: dict[str, Floats] = {}
        for stage in self._stages:
            inputs = record_inputs(self._layout, rows, self._tables[stage.tables])
            outputs = self._graphs[stage.name].run(None, inputs)
            parts |= {
                part.name: flush_subnormals(matrix) for part, matrix in zip(stage.parts, outputs, strict=True)
            }
        return parts

    def compute_all(self, rows: Rows) -> dict[str, Floats]:
        """The same for any number of items. Raises BundleError if a part is not finite."""
        starts = range(0, max(len(rows), 1), ITEMS_AT_ONCE)
        some = [rows.take(np.arange(first, min(first + ITEMS_AT_ONCE, len(rows)))) for first in starts]
        pieces = [self.compute(one) for one in some]
        parts = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for name, matrix in parts.items():
            if not np.isfinite(matrix).all():
                infinite = (~np.isfinite(matrix)).any(1).sum()
                raise BundleError(f"{name}: that of {infinite} items is not finite")
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


def read_tables(folder: Path, manifest: BundleManifest, layout: Layout) -> dict[str, TableSet]:
    """Memory-map the sets of embedding tables and projections, by name. Raises DataError."""
    sets: dict[str, TableSet] = {}
    for name in {stage.tables for stage in manifest.stages}:
        tables: dict[int | str, Floats] = {}
        for dim, rows in layout.table_rows.items():
            tables[dim] = _read_finite(folder / "tables" / name / f"{dim}.npy", (rows, dim))
        for n, (vector, shape) in enumerate(layout.projections.items()):
            tables[vector] = _read_finite(projection_file(folder / "tables" / name, n), shape)
        sets[name] = tables
    return sets


def projection_file(folder: Path, n: int) -> Path:
    """The file of the n-th projection of vectors, in the folder of a set of tables."""
    return folder / f"projection{n}.npy"


def read_parts(folder: Path, manifest: BundleManifest) -> Mapping[str, StoredMatrix]:
    """Memory-map what stages keep of every item: (N, d) by `STAGE.PART`. Raises DataError."""
    return {
        part.name: read_matrix(part_file(folder, part.name), part.width, part.precision)
        for stage in manifest.stages
        for part in stage.parts
    }


def _read_finite(path: Path, shape: tuple[int | None, ...]) -> Floats:
    array = read_array(path, np.float32, shape)
    check_finite(array, str(path))
    return array


def read_items(folder: Path, manifest: BundleManifest, encoders: Encoders) -> ItemLayer:
    """Memory-map the items: records and parts. Raises DataError."""
    layer = ItemLayer(
        ItemRecords.load(folder / "items", encoders, manifest.item_columns), read_parts(folder, manifest)
    )
    check_parts(layer, manifest, str(folder / "items"))
    return layer


def check_parts(layer: ItemLayer, manifest: BundleManifest, where: str) -> None:
    """Raise DataError, which names `where`, unless a layer has each part of every item, finite and of its width."""
    for stage in manifest.stages:
        for name, width, precision in stage.parts:
            shape = (len(layer.records.ids), width)
            check_matrix(layer.parts[name], precision, shape, f"{where}/part.{name}.npy")


def check_changed_items(newer: ItemLayer, manifest: BundleManifest, encoders: Encoders) -> None:
    """Raise StoreError if items are not such as a bundle's encoders make: a store may hold anything."""
    try:
        newer.records.check(encoders, "changed items")
        check_parts(newer, manifest, "changed items")
    except DataError as error:
        raise StoreError(f"{error}; publish the bundle again") from None


def read_snapshots(folder: Path, manifest: BundleManifest) -> PriorSnapshots:
    """Read the snapshots of priors. Raises DataError."""
    rates = {}
    for n, (name, feature) in enumerate(manifest.declared.priors().items()):
        rates[name] = PriorCounts.load(prior_folder(folder, n))
        _check_counts(rates[name], feature, str(prior_folder(folder, n)))
    return PriorSnapshots(rates, manifest.data.timezone, manifest.priors)


def _check_counts(counts: PriorCounts, feature: CountedFeature, where: str) -> None:
    """Raise DataError unless there are finite counts of every key, and of all, as the feature needs them."""
    check_ascending(counts.keys, f"{where}/keys.npy")
    _check_cumulative(counts.counts, counts.keys.size, feature.memory.single, f"{where}/each")
    _check_cumulative(counts.all, 1, feature.memory.single, f"{where}/all")
    if feature.smoothing == "auto" and not (counts.fitted is not None and 0 < counts.fitted < np.inf):
        raise DataError(f"{where}/{SMOOTHING}: expected a number above 0")


def _check_cumulative(counts: CumulativeCounts, keys: int, single: bool, where: str) -> None:
    """Raise DataError unless each key has one entry if `single`, else some of ascending periods, and finite counts."""
    offsets, entries, periods = counts.offsets, counts.entries, counts.periods
    if single and not np.array_equal(offsets, np.arange(keys + 1)):
        raise DataError(f"{where}.offsets.npy: expected one entry of each key")
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] != entries:
        raise DataError(f"{where}.offsets.npy: expected the entries of each key, one after another")
    begins = np.zeros(entries + 1, dtype=bool)
    begins[offsets] = True
    if not (begins[1:-1] | (periods[1:] > periods[:-1])).all():
        raise DataError(f"{where}.periods.npy: expected ascending periods of each key")
    for part, weights in (("shown", counts.shown), ("positive", counts.positive)):
        check_finite(weights, f"{where}.{part}.npy")
        if len(weights) and weights.min() < 0:
            raise DataError(f"{where}.{part}.npy: a count is below 0")
