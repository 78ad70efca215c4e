"""Rows of a table of items → their records and item parts, by the encoders and graphs of a bundle."""

from collections.abc import Sequence
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
from corank.bundle.stage_facts import VECTOR, ItemPart, StageFacts
from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.priors import PriorSnapshots


@dataclass(frozen=True)
class CatalogueEncoder:
    """Encodes items outside a bundle. A worker gets where the files are, and opens them once."""

    folder: Path
    """The content of the bundle, which stays open where the encoder is made."""
    manifest: BundleManifest
    parts: tuple[ItemPart, ...]
    """Those that are computed."""
    threads: int = 0
    """Threads of the graphs; 0 for a thread a core."""

    @classmethod
    def of(cls, bundle: Bundle, threads: int = 0, parts: Sequence[str] = ()) -> "CatalogueEncoder":
        """Make the encoder of a bundle.

        Args:
            bundle: has encoders and graphs.
            threads: of the graphs; 0 for a thread a core.
            parts: of items that are computed, `STAGE.PART`; the vectors of all stages unless given.

        Raises ConfigError for a part that no stage has.
        """
        return cls(bundle.folder, bundle.manifest, find_item_parts(bundle.manifest, parts), threads)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what was opened."""
        return type(self), (self.folder, self.manifest, self.parts, self.threads)

    @cached_property
    def _encoders(self) -> Encoders:
        return Encoders.load(self.folder / "encoders", self.manifest.declared)

    @cached_property
    def _priors(self) -> PriorSnapshots:
        return read_snapshots(self.folder, self.manifest)

    @property
    def stages(self) -> list[StageFacts]:
        """Those that have one of the parts."""
        return [stage for stage in self.manifest.stages if any(part in self.parts for part in stage.parts)]

    @cached_property
    def graphs(self) -> ItemGraphs:
        """The graphs of the parts. Raises BundleError."""
        layout = Layout(self.manifest.declared, self._encoders.sizes)
        tables = read_tables(self.folder, self.manifest, layout)
        return ItemGraphs(self.folder, self.stages, layout, tables, self.threads)

    def encode(self, frame: pl.DataFrame) -> ItemLayer:
        """Encode items, of which the frame has a row each. Raises DataError, BundleError."""
        manifest = self.manifest
        records = ItemRecords.encode(
            frame, self._encoders, self._priors, manifest.item, manifest.item_columns
        )
        computed, wanted = self.graphs.compute_all(records.rows), {part.name for part in self.parts}
        parts = {name: part for name, part in computed.items() if name in wanted}
        return ItemLayer(records, store_parts(parts, self.stages))


def find_item_parts(manifest: BundleManifest, names: Sequence[str]) -> tuple[ItemPart, ...]:
    """Find item parts by name in the order of the stages, the vectors of all stages for no names.

    Raises ConfigError for a part that no stage has.
    """
    known = {part.name: part for stage in manifest.stages for part in stage.parts}
    wanted = list(names) or [f"{stage.name}.{VECTOR}" for stage in manifest.vector_stages]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--part: {describe_unknown(name, known, 'item part')}")
    return tuple(part for name, part in known.items() if name in wanted)
