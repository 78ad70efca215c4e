"""Parts of a published folder, such as shards: fetched when first read, or ahead, and mapped from the cache."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar, overload

from corank.core.errors import MissingObjectError, StorageError
from corank.core.storage.folder_cache import CachedFolder, FolderCache
from corank.core.storage.published_folder import PublishedFolder

Part = TypeVar("Part")
OPEN, AHEAD = 0.5, 0.25
"""Shares of the cache: what parts that stay open may take, and parts that were fetched ahead."""


class RemoteParts(Sequence[Part], Generic[Part]):
    """Parts that are opened by number. The ones used last stay open, in memory that is mapped.

    What was evicted from the cache while it is open stays readable on Linux.
    """

    def __init__(
        self,
        source: PublishedFolder,
        cache: FolderCache,
        folders: Sequence[str],
        open_part: Callable[[Path], Part],
    ) -> None:
        """
        Args:
            source: the published folder.
            cache: where parts are kept.
            folders: the parts' relative names.
            open_part: maps all files of a part.
        """
        self.source, self.cache, self.folders, self._open_part = source, cache, folders, open_part
        self._bytes = _measure(source, folders)
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._ahead: dict[int, Future[CachedFolder]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.folders)

    @overload
    def __getitem__(self, n: int) -> Part: ...

    @overload
    def __getitem__(self, n: slice) -> Sequence[Part]: ...

    def __getitem__(self, n: int | slice) -> Part | Sequence[Part]:
        """Open parts. Raises StorageError, also if the folder was published anew since."""
        if isinstance(n, slice):
            return [self[one] for one in range(len(self))[n]]
        n = range(len(self))[n]
        with self._lock:
            if n not in self._open:
                self._open[n] = self._fetch_and_open(n)
            self._open.move_to_end(n)
            self._close_oldest()
            return self._open[n]

    def __iter__(self) -> Iterator[Part]:
        """Open one part after another, and fetch the next meanwhile."""
        for n in range(len(self)):
            if n + 1 < len(self):
                self.prefetch(n + 1)
            yield self[n]

    def prefetch(self, n: int) -> None:
        """Begin to fetch a part that will be read soon; nothing happens if it is at hand, or too much is ahead."""
        with self._lock:
            ahead = sum(self._bytes[one] for one in self._ahead) + self._bytes[n]
            if n in self._open or n in self._ahead or ahead > self.cache.bound * AHEAD:
                return
            self._pool = self._pool or ThreadPoolExecutor(1, "fetch ahead")
            self._ahead[n] = self._pool.submit(self._fetch, n)

    def _fetch(self, n: int) -> CachedFolder:
        begin = f"{self.folders[n]}/"
        return self.cache.fetch(self.source, lambda name: name.startswith(begin))

    def _fetch_and_open(self, n: int) -> Part:
        ahead = self._ahead.pop(n, None)
        try:
            cached = self._fetch(n) if ahead is None else ahead.result()
        except MissingObjectError:
            if self.source.is_current():
                raise
            raise StorageError(
                f"{self.source.url}: was published anew since this command began; run it again"
            ) from None
        return self._open_part(cached.path / self.folders[n])

    def _close_oldest(self) -> None:
        """Drop the parts that were not used for longest, but the last one; their readers keep them."""
        total = sum(self._bytes[n] for n in self._open)
        while len(self._open) > 1 and total > self.cache.bound * OPEN:
            n, _ = self._open.popitem(last=False)
            total -= self._bytes[n]


def _measure(source: PublishedFolder, folders: Sequence[str]) -> list[int]:
    """Sum the bytes of each folder's files."""
    sizes: dict[str, int] = defaultdict(int)
    depth = {folder.count("/") + 1 for folder in folders}
    for name, file in source.files.items():
        for n in depth:
            sizes["/".join(name.split("/", n)[:n])] += file.bytes
    return [sizes[folder] for folder in folders]
