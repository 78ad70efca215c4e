"""Packed data in object storage: what all read is fetched at once, a shard when it is read first or ahead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from corank.core.errors import DataError
from corank.core.storage.folder_cache import CachedFolder, FolderCache
from corank.core.storage.object_url import ObjectUrl
from corank.core.storage.published_folder import PublishedFolder
from corank.core.storage.remote_parts import RemoteParts
from corank.data.pack_manifest import MANIFEST, PackManifest, read_pack_manifest

PACKED_DATA = "packed data"
"""The declared content of a published folder of packed data."""
Shard = TypeVar("Shard")


@dataclass(frozen=True)
class RemotePack:
    """One publication of packed data."""

    published: PublishedFolder
    cache: FolderCache
    manifest: PackManifest

    @classmethod
    def open(cls, url: ObjectUrl, expect: str | None = None) -> Self:
        """Read the manifest of packed data.

        Args:
            url: their location.
            expect: the fingerprint that they should have.

        Raises DataError, StorageError.
        """
        cache, published = FolderCache.of_environment(), PublishedFolder.open(url, PACKED_DATA)
        folder = cache.fetch(published, lambda name: name == MANIFEST)
        try:
            manifest = read_pack_manifest(folder.path, expect)
        except DataError as error:
            raise DataError(str(error).replace(str(folder.path), str(url))) from None
        return cls(published, cache, manifest)

    def fetch_shared(self) -> CachedFolder:
        """Fetch all that is no shard: items, users, events, encoders, priors. Raises StorageError."""
        return self.cache.fetch(
            self.published, lambda name: name.partition("/")[0] not in self.manifest.splits
        )

    def shards(self, split: str, open_shard: Callable[[Path], Shard]) -> Sequence[Shard]:
        """Return the shards of a split, none of which is fetched yet."""
        folders = [f"{split}/{shard.name}" for shard in self.manifest.splits[split]]
        return RemoteParts(self.published, self.cache, folders, open_shard)
