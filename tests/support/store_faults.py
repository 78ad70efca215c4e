"""Faults of a store's server, of a disk and of a store's content, for tests and benchmarks."""

import asyncio
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from corank_serve.store.base import Pairs, Store
from tests.support.ports import free_port

FULL_BYTES = 4096
"""Longest file that may be written while a disk is full."""


class SlowProxy:
    """A TCP proxy of this machine that can delay answers."""

    def __init__(self, target: int) -> None:
        """`target`: port of the server."""
        self.port, self.delay, self._target = free_port(), 0.0, target
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True).start()
        listening.wait()

    async def _serve(self, listening: threading.Event) -> None:
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port):
            listening.set()
            await asyncio.Event().wait()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._copy(reader, requests, False), self._copy(answers, writer, True))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, late: bool) -> None:
        try:
            while part := await source.read(1 << 16):
                await asyncio.sleep(self.delay if late else 0)
                sink.write(part)
                await sink.drain()
        except OSError:
            pass  # either side has gone; the other one learns it below
        sink.close()


@contextmanager
def full_disk(*processes: int) -> Iterator[None]:
    """Let processes write no file beyond a few bytes, and those that they start."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in processes}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def dump(store: Store) -> dict[str, Pairs]:
    """Read all tables of a store that nobody writes to."""
    return {table: [pair for batch in store.scan(table) for pair in batch] for table in store.tables()}


def restore_dump(store: Store, head: bytes | None, tables: dict[str, Pairs]) -> None:
    """Write a dump into a store in place of what it holds."""
    before = store.head()
    for table in store.tables():
        store.drop(table)
    store.put(tables)
    assert head is not None and store.swap(before, head)
