"""Packed data: request-major arrays of one log, memory-mapped."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from mmap import mmap
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import read_array, read_frame, read_ragged
from corank.core.artifact import Artifact, compare_files, open_folder
from corank.core.artifact_cache import ArtifactCache, RemoteParts
from corank.core.artifact_objects import Published, read_published
from corank.core.objects import Location, ObjectUrl
from corank.core.ragged import Rows
from corank.core.types import Floats, Ints, Longs
from corank.data.packed.manifest import PackManifest, naming_damage, require_fingerprint
from corank.data.packed.shard import (
    LoggedRequests,
    Shard,
    list_features,
    map_rows,
    row_features,
    select_rows,
    select_shards,
)
from corank.data.packed.split_counts import COUNTS, ORDINALS, ItemCounts, RequestContents
from corank.data.point_in_time import VersionedRows, newest_rows
from corank.features.encoders import Encoders, map_encoder_files
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.history_events import EventParts, Events
from corank.features.log_schema import FROM, ID, ROW, DataSettings
from corank.features.operands import Operands
from corank.features.priors import PriorCounts, PriorSnapshots
from corank.features.row_encoder import RowEncoder
from corank.features.schema import Schema

OpenShards = Callable[[str, Callable[[Path], Shard]], Sequence[Shard]]
"""Opens a split's shards with a function that opens one."""
ENCODERS = "encoders"
"""The folder within packed data that holds the encoders."""
_MAPPED = (
    "encoder_files",
    "codes",
    "users",
    "item_keys",
    "item_ordinals",
    "item_counts",
    "request_contents",
    "item_operands",
    "item_columns",
    "priors",
)


@dataclass(frozen=True)
class PackedDataset:
    """Packed data, memory-mapped. They stay as they are while this object lives, also if they are packed again.

    Example:
        packed = PackedDataset.open(Path("packed/example"))
        packed.splits["train"][0].request_start
    """

    folder: Path
    """Of the files: the content of packed data on this machine, or a copy of all but the shards."""
    manifest: PackManifest
    schema: Schema
    encoders: Encoders
    items: Rows
    """A row for each item and time from which it holds."""
    events: dict[str, Events]
    """By `History.events`."""
    splits: Mapping[str, Sequence[Shard]]
    """Those of object storage are fetched when they are read first."""
    location: Location = Path()
    """Their folder, or their URL in object storage."""

    @classmethod
    def open(cls, location: Location, expect: str | None = None) -> Self:
        """Open packed data; only manifest and encoders are read.

        Of data in object storage all that is no shard is fetched: items, users, events, encoders, priors.

        Args:
            location: the folder of the packed data, or its URL.
            expect: the fingerprint of the config and the files that it should be packed from.

        Raises:
            DataError: the data are missing, incomplete, damaged, or of another fingerprint.
            StorageError: the object store refuses, or there are none.
        """
        if isinstance(location, ObjectUrl):
            return read_published(location, PackManifest, lambda published: cls._fetch(published, expect))
        opened = open_folder(location, PackManifest, checksums=False)
        require_fingerprint(opened.manifest, expect, location)
        with naming_damage(opened.folder):
            return cls._load_encoded(opened, location)

    @classmethod
    def _fetch(cls, published: Published[PackManifest], expect: str | None) -> Self:
        manifest, cache = published.manifest, ArtifactCache.of_environment()
        require_fingerprint(manifest, expect, published.url)

        def open_parts(split: str, open_shard: Callable[[Path], Shard]) -> Sequence[Shard]:
            folders = [f"{split}/{shard.name}" for shard in manifest.splits[split]]
            return RemoteParts(published, cache, folders, open_shard)

        shared = cache.fetch(published, lambda name: name.partition("/")[0] not in manifest.splits)
        return cls._load_encoded(shared, published.url, open_parts)

    @classmethod
    def _load_encoded(
        cls, opened: Artifact[PackManifest], location: Location, open_shards: OpenShards | None = None
    ) -> Self:
        encoders = Encoders.load(opened.folder / ENCODERS, Schema(opened.manifest.features))
        loaded = cls.load(opened.folder, opened.manifest, encoders, open_shards)
        loaded = replace(loaded, location=location)
        for name in _MAPPED:
            getattr(loaded, name)
        return loaded

    def verify(self, splits: Collection[str] | None = None) -> None:
        """Compare the checksums of the files of some splits, or all, and of what they share with the manifest's.

        What comes from object storage was compared when it was fetched.

        Raises DataError for a file that differs.
        """
        if self.url is None:
            others = set[str]() if splits is None else self.manifest.splits.keys() - set(splits)
            compare_files(
                self.folder.parent, self.manifest, lambda name: name.partition("/")[0] not in others
            )

    def naming_damage(self) -> AbstractContextManager[None]:
        """As `naming_damage`, of their folder."""
        return naming_damage(self.folder)

    @classmethod
    def load(
        cls,
        folder: Path,
        manifest: PackManifest,
        encoders: Encoders,
        open_shards: OpenShards | None = None,
        derived: bool = True,
    ) -> Self:
        """Memory-map packed data whose manifest and encoders are read.

        Args:
            folder: of the packed data.
            manifest: of them.
            encoders: of them.
            open_shards: opens a split's shards with a function that opens one; by default at once, from the folder.
            derived: whether the rows have derived features; while they are packed, they have not yet.

        Raises:
            DataError: an array is missing, damaged, or of another type or shape.
        """
        schema = encoders.schema
        names = dict.fromkeys(history.events for history in schema.histories().values())
        events = {n: Events.open(folder / "events", n, EventParts.of(schema, n)) for n in names}
        items = folder / "items"
        item_lists = [read_ragged(items, n) for n in list_features(schema, "item")]

        def open_shard(path: Path) -> Shard:
            return Shard.open(path, manifest, schema, events, derived)

        def open_all(split: str, open_one: Callable[[Path], Shard]) -> Sequence[Shard]:
            return tuple(open_one(folder / split / shard.name) for shard in manifest.splits[split])

        return cls(
            folder,
            manifest,
            schema,
            encoders,
            map_rows(items, item_lists, row_features(schema, "item", derived)),
            events,
            {split: (open_shards or open_all)(split, open_shard) for split in manifest.splits},
        )

    def with_features(self, schema: Schema) -> Self:
        """See the data with some of their features alone, with the settings of a schema.

        Args:
            schema: features of these data; settings that packing does not read may be others.
        """
        features = {name: schema.features[name] for name in self.schema.features if name in schema.features}
        if features == self.schema.features:
            return self
        seen = Schema(features)
        view = replace(
            self,
            manifest=self.manifest.model_copy(update={"features": features}),
            schema=seen,
            encoders=Encoders(seen, {n: e for n, e in self.encoders.fitted.items() if n in features}),
            items=select_rows(self.schema, seen, "item", self.items),
            splits={n: select_shards(self.schema, seen, shards) for n, shards in self.splits.items()},
        )
        # files go by the number of a feature: what is mapped stays that of all features
        view.__dict__.update({name: getattr(self, name) for name in _MAPPED})
        return view

    @property
    def url(self) -> ObjectUrl | None:
        """Their URL; None of data on this machine."""
        return self.location if isinstance(self.location, ObjectUrl) else None

    def prefetch(self, split: str, n: int) -> None:
        """Begin to fetch the n-th shard of a split, which will be read soon, if it is in object storage."""
        shards = self.splits[split]
        if isinstance(shards, RemoteParts):
            shards.prefetch(n)

    def placed_rows(self, shard: LoggedRequests) -> dict[Placement, tuple[Rows, NDArray[np.integer]]]:
        """Return the rows of each placement, and which of them each candidate of a shard has: (C,)."""
        of = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
        every = np.arange(len(of))
        return {
            "query": (shard.query, of),
            "item": (self.items, shard.item),
            "snapshot": (shard.snapshot, every),
            "cross": (shard.cross, every),
        }

    @property
    def data(self) -> DataSettings:
        """The settings of the tables."""
        return self.manifest.data

    @cached_property
    def codes(self) -> str:
        """A hash of the encoders: the weights of a model hold for these codes alone."""
        return _hash(self.encoder_files)

    @cached_property
    def encoder_files(self) -> list[bytes | mmap]:
        """Names and bytes of the encoders' files."""
        return map_encoder_files(self.folder / ENCODERS)

    @cached_property
    def row_encoders(self) -> Mapping[Placement, RowEncoder]:
        """The encoder of rows of each placement."""
        return {placement: RowEncoder(self.encoders, placement) for placement in PLACEMENTS}

    @cached_property
    def users(self) -> pl.Series:
        """The distinct users of the log, ascending: (U,)."""
        return read_frame(self.folder / "users.arrow")["user"]

    @cached_property
    def item_keys(self) -> pl.DataFrame:
        """Columns `item` and `valid_from` (ms UTC, NEVER for always) of the item rows."""
        return read_frame(self.folder / "items" / "keys.arrow")

    @cached_property
    def item_ordinals(self) -> Ints:
        """The item of each item row, as an index into the distinct items."""
        return read_array(self.folder / ORDINALS, np.int32, (len(self.items),))

    @cached_property
    def item_counts(self) -> dict[str, ItemCounts]:
        """The candidates of each item, by split."""
        items, levels = int(self.item_ordinals[-1]) + 1, len(self.data.levels)
        return {s: ItemCounts.open(self.folder / COUNTS / s, items, levels) for s in self.splits}

    @cached_property
    def request_contents(self) -> dict[str, RequestContents]:
        """The contents of each request, by split."""
        levels, labels = len(self.data.levels), list(self.data.labels)
        counts = {s: sum(shard.requests for shard in shards) for s, shards in self.manifest.splits.items()}
        return {
            s: RequestContents.open(self.folder / COUNTS / s, levels, labels, requests)
            for s, requests in counts.items()
        }

    @cached_property
    def item_versions(self) -> VersionedRows:
        """The item rows, for lookup by item and time."""
        return VersionedRows(self.item_keys.rename({"item": ID, "valid_from": FROM}))

    @cached_property
    def item_operands(self) -> Operands:
        """The operands of the item rows, vectors among them."""
        wanted = self.schema.operand_names("item")
        loaded = Operands.load(self.folder / "items" / "operands", wanted, len(self.items))
        return loaded.with_vectors(self.schema.row_features("item"), self.items)

    @cached_property
    def item_columns(self) -> dict[str, Floats]:
        """Those of the data's `columns` that are read from items, by item row."""
        folder, shape = self.folder / "items", (len(self.items),)
        return {
            name: read_array(folder / f"column.{name}.npy", np.float32, shape)
            for name in self.manifest.item_columns
        }

    @cached_property
    def priors(self) -> PriorSnapshots:
        """The counts of every prior, period by period."""
        folders = {name: prior_folder(self.folder, n) for n, name in enumerate(self.schema.priors())}
        rates = {name: PriorCounts.load(folder) for name, folder in folders.items()}
        return PriorSnapshots(rates, self.data.timezone)

    def newest_items(self) -> tuple[pl.Series, Longs]:
        """Return the I distinct items, ascending, and the newest row of each: (I,), (I,)."""
        rows = newest_rows(self.item_versions.frame.with_row_index(ROW)).sort(ID)
        return rows[ID], rows[ROW].to_numpy().astype(np.int64)


def hash_encoders(folder: Path) -> str:
    """Hash the encoders of packed data: the weights of a model hold for these codes alone. Raises OSError."""
    return _hash(map_encoder_files(folder / ENCODERS))


def _hash(parts: list[bytes | mmap]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def prior_folder(folder: Path, n: int) -> Path:
    """Return the folder of the n-th prior's counts, in packed data as in a bundle."""
    return folder / "priors" / str(n)
