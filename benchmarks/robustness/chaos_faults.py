"""Faults that `chaos` inflicts on a store and its users; each fault ends by itself."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.replicas import Replica
from benchmarks.robustness.chaos_writer import Writer
from corank_serve.store.base import open_store
from tests.support.redis_server import Server
from tests.support.store_faults import SlowProxy, dump, full_disk, restore_dump

HOLD_SECONDS = 6.0
"""Time for which a fault lasts: longer than a read of Redis may take."""
SLOW_SECONDS = 0.2


@dataclass
class Disturbed:
    """A store with its users."""

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
        parents = [psutil.Process(process.pid) for process in started if process is not None]
        workers = [child for parent in parents for child in parent.children(recursive=True)]
        with full_disk(*(process.pid for process in [*parents, *workers])):
            time.sleep(HOLD_SECONDS)

    def stop_writer(self) -> None:
        """Suspend the writer in whatever it does, then resume it."""
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
