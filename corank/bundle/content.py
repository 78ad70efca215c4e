"""Reads parts of a bundle's content folder: embedding tables, item vectors, snapshots of priors."""

from collections.abc import Mapping
from pathlib import Path

from corank.bundle.manifest import BundleManifest
from corank.core.arrays import read_array
from corank.core.types import Floats
from corank.data.dataset import prior_folder
from corank.features.input_layout import Layout
from corank.features.priors import PriorCounts, PriorSnapshots


def read_tables(folder: Path, manifest: BundleManifest, layout: Layout) -> dict[str, dict[int, Floats]]:
    """Memory-map the embedding tables: set → dimension → rows. Raises DataError."""
    sets = {stage.tables for stage in manifest.stages}
    return {
        name: {dim: read_array(folder / "tables" / name / f"{dim}.npy") for dim in layout.table_rows}
        for name in sets
    }


def read_vectors(folder: Path, manifest: BundleManifest) -> Mapping[str, Floats]:
    """Memory-map the vectors of every item: stage → (N, d), for stages that have vectors. Raises DataError."""
    return {name: read_array(folder / "items" / f"vectors.{name}.npy") for name in manifest.vector_tables}


def read_snapshots(folder: Path, manifest: BundleManifest) -> PriorSnapshots:
    """Read the snapshots of priors. Raises DataError."""
    rates = {name: PriorCounts.load(prior_folder(folder, n)) for n, name in enumerate(manifest.priors)}
    return PriorSnapshots(rates, manifest.data.timezone, manifest.priors)
