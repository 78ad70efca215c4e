"""Rows of a table of items → their records and vectors, by the encoders and graphs of a bundle."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.content import read_snapshots, read_tables
from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_parts import ItemGraphs, store_parts
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.priors import PriorSnapshots


@dataclass(frozen=True)
class CatalogueEncoder:
    """Encodes items outside a bundle. A worker gets where the files are, and opens them once."""

    folder: Path
    """The content of the bundle, which stays open where the encoder is made."""
    manifest: BundleManifest
    threads: int = 0
    """Threads of the graphs; 0 for a thread a core."""

    @classmethod
    def of(cls, bundle: Bundle, threads: int = 0) -> "CatalogueEncoder":
        """Make the encoder of a bundle."""
        return cls(bundle.folder, bundle.manifest, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what was opened."""
        return type(self), (self.folder, self.manifest, self.threads)

    @cached_property
    def _encoders(self) -> Encoders:
        return Encoders.load(self.folder / "encoders", self.manifest.declared)

    @cached_property
    def _priors(self) -> PriorSnapshots:
        return read_snapshots(self.folder, self.manifest)

    @cached_property
    def graphs(self) -> ItemGraphs:
        """The graphs of item vectors. Raises BundleError."""
        layout = Layout(self.manifest.declared, self._encoders.sizes)
        tables = read_tables(self.folder, self.manifest, layout)
        return ItemGraphs(self.folder, self.manifest.vector_stages, layout, tables, self.threads)

    def encode(self, frame: pl.DataFrame) -> ItemLayer:
        """Encode items, of which the frame has a row each; of parts, vectors. Raises DataError, BundleError."""
        manifest = self.manifest
        records = ItemRecords.encode(
            frame, self._encoders, self._priors, manifest.item, manifest.item_columns
        )
        parts = store_parts(self.graphs.compute_all(records.rows), manifest.vector_stages)
        return ItemLayer(records, parts)
