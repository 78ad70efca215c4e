"""What `chaos` does to a store and to those who use it; each fault ends by itself."""

import asyncio
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import free_port
from benchmarks.replicas import Replica
from benchmarks.robustness.chaos_writer import Writer
from corank.serving.store.base import Pairs, Store, open_store
from tests.support.redis_server import Server

HOLD_SECONDS = 6.0
"""Time for which a fault lasts: longer than a read of Redis may take."""
SLOW_SECONDS = 0.2
FULL_BYTES = 4096
"""Longest file that may be written while the disk is full."""


class SlowProxy:
    """A TCP proxy of this machine, whose answers come late if told."""

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


@dataclass
class Disturbed:
    """A store with those who use it."""

    writer: Writer
    replicas: list[Replica]
    rng: random.Random

    def off_clock(self) -> None:
        """Let the writer's clock be an hour early or late."""
        self.writer.kill()
        self.writer.start(self.rng.choice([-1.0, 1.0]))
        time.sleep(HOLD_SECONDS)
        self.writer.kill()
        self.writer.start()

    def full(self) -> None:
        """Let the disk be full under caches, logs and the writer."""
        started = [self.writer.process, *(replica.process for replica in self.replicas)]
        with full_disk(*(process.pid for process in started if process is not None)):
            time.sleep(HOLD_SECONDS)

    def stop_writer(self) -> None:
        """Stop the writer in whatever it does, and let it go on."""
        assert self.writer.process is not None
        self.writer.process.send_signal(signal.SIGSTOP)
        time.sleep(HOLD_SECONDS)
        self.writer.process.send_signal(signal.SIGCONT)

    def kill_writer(self) -> None:
        """Kill the writer in whatever it does, and start it again."""
        self.writer.kill()
        time.sleep(HOLD_SECONDS / 4)
        self.writer.start()


@dataclass
class DisturbedRedis(Disturbed):
    """A server of Redis' protocol behind a proxy."""

    server: Server
    proxy: SlowProxy
    data: Path
    """Folder of its append-only file."""

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """By name."""
        return {
            "kill": self.kill,
            "stop": self.stop,
            "lose": self.lose,
            "empty": self.empty,
            "slow": self.slow,
            "clock": self.off_clock,
            "full": self.full,
            "kill_writer": self.kill_writer,
        }

    def kill(self) -> None:
        """Kill the server, and start it again with what it wrote."""
        self.server.kill()
        time.sleep(HOLD_SECONDS / 2)
        self.server.start()

    def stop(self) -> None:
        """Let the server hang."""
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(HOLD_SECONDS)
        self.server.process.send_signal(signal.SIGCONT)

    def lose(self) -> None:
        """Let the server come back without its last writes."""
        older = self.data.with_name("older")
        shutil.rmtree(older, ignore_errors=True)
        shutil.copytree(self.data, older)
        time.sleep(HOLD_SECONDS)
        self.server.kill()
        shutil.rmtree(self.data)
        shutil.copytree(older, self.data)
        self.server.start()

    def empty(self) -> None:
        """Let the server come back with nothing."""
        self.server.kill()
        shutil.rmtree(self.data)
        self.server.start()

    def slow(self) -> None:
        """Let every answer of the server be late."""
        self.proxy.delay = SLOW_SECONDS
        time.sleep(HOLD_SECONDS)
        self.proxy.delay = 0.0


@dataclass
class DisturbedFolder(Disturbed):
    """An LMDB store."""

    url: str

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """By name; an LMDB store has no server, so the writer stops and dies in its place."""
        return {
            "kill": self.kill_writer,
            "stop": self.stop_writer,
            "lose": self.lose,
            "empty": self.empty,
            "clock": self.off_clock,
            "full": self.full,
        }

    def lose(self) -> None:
        """Restore the store from a dump that lacks the last writes."""
        self.writer.kill()
        with closing(open_store(self.url)) as store:
            head, tables = store.head(), dump(store)
        self.writer.start()
        time.sleep(HOLD_SECONDS)
        self.writer.kill()
        with closing(open_store(self.url)) as store:
            restore_dump(store, head, tables)
        self.writer.start()

    def empty(self) -> None:
        """Restore the store from nothing."""
        self.writer.kill()
        with closing(open_store(self.url)) as store:
            restore_dump(store, b"{}", {})
        self.writer.start()


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
