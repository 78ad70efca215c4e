"""A service under load for minutes, while items change every second and a new version goes live every minute.

`corank serve` follows an LMDB store at 70 % of its saturated throughput. The first minute warms up; in the second,
which is quiet, no version goes live. The figures of the start are of the quiet minute, those of the end of the
last one: median of the resident memory of all its processes, and latency of requests. `p99_ratio` is of the worst
minute to the quiet one, `swap_seconds` the longest time from the end of a publication to when its version is
served, and `failed` counts requests without an answer, of which those that were sent away with 503 are `shed`.
`sender_late_ms` is how late the sender itself was with one request of a thousand.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from rich.console import Console

import corank
from benchmarks import harness
from benchmarks.load import Connection, Sent, arriving, free_port, message, run, saturated, serving
from benchmarks.million import Million, million
from benchmarks.robustness.user_load import UserMessages
from benchmarks.speed.funnel_latency import CORANK, REQUESTS, SHARE
from tests.support.service import ANY_TIME

MINUTE = 60
CHANGING, AT_ONCE = 1_000, 20
"""Items that change, and how many of them every second."""
COLUMNS = ("category", "brand", "price", "quality", "freshness", "tags")
AIMS = {
    "failed": ("==", 0.0),
    "p99_ratio": ("<=", 2.0),
    "rss_growth": ("<=", 1.1),
    "swap_seconds": ("<=", 60.0),
}
QUIET = 1
"""The minute in which no version goes live."""
STATUS = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Shop:
    """A store, its publications, and a service that follows it."""

    def __init__(self, made: Million, folder: Path) -> None:
        self.store, self.cache, self.bundle = f"lmdb:{folder}/store", folder / "cache", folder / "bundle"
        self.items, self.log, self.port = folder / "items.parquet", made.log, free_port()
        self.swaps = list[float]()
        """Seconds until a version that was published is served."""
        shutil.copytree(made.bundle, self.bundle)
        shutil.copyfile(made.items, self.items)
        corank.publish(self.bundle, self.store)

    def command(self) -> list[object]:
        return [*CORANK, "serve", self.store, "--cache", self.cache, "--port", self.port, *ANY_TIME]

    def changes(self) -> list[bytes]:
        """Upserts that tell what the table says, so that it is up to date at any time."""
        rows = pl.read_parquet(self.items).head(CHANGING).rename({"item_id": "id"}).select("id", *COLUMNS)
        bodies = [{"items": rows[n : n + AT_ONCE].to_dicts()} for n in range(0, CHANGING, AT_ONCE)]
        token = f"Authorization: Bearer {os.environ['CORANK_TOKEN']}"
        return [message(msgspec.json.encode(body), "/items", token) for body in bodies]

    async def upsert(self) -> None:
        connection, changes = await Connection.open(self.port), self.changes()
        for n in range(sys.maxsize):
            status, body = await connection.ask(changes[n % len(changes)])
            if status != 200:
                raise RuntimeError(f"{status}: {body.decode()}")
            await asyncio.sleep(1)

    async def publish(self) -> None:
        """After the quiet minute, every minute a new version, by the commands that an operator would use."""
        await asyncio.sleep((QUIET + 1) * MINUTE)
        while True:
            began = time.monotonic()
            (last,) = await asyncio.to_thread(corank.store_log, self.store, 1)
            as_of = f"{last['change']}-{last['id']}"
            tables = (self.log, "--items", self.items, "--items-as-of", as_of)
            await command("refresh", self.bundle, *tables)
            await command("publish", self.bundle, self.store)
            self.swaps.append(await self.wait_served())
            await command("store", "prune", self.store)
            await asyncio.sleep(began + MINUTE - time.monotonic())

    async def wait_served(self) -> float:
        """Seconds until the version that is live in the store is served."""
        began = time.monotonic()
        versions = await asyncio.to_thread(corank.store_versions, self.store)
        (seq,) = (version["facts"]["seq"] for version in versions if version["live"])
        connection = await Connection.open(self.port)
        while True:
            if connection.closes:
                connection = await Connection.open(self.port)
            _, body = await connection.ask(STATUS)
            if msgspec.json.decode(body)["served_seq"] >= seq:
                connection.close()
                return time.monotonic() - began
            await asyncio.sleep(0.2)


async def command(*arguments: object) -> None:
    """`corank` as a process that gives way at once to the sender, whose core it shares."""
    words = ["chrt", "--idle", "0", *CORANK, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    try:
        _, said = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{words}: exit {process.returncode}: {said.decode()}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Memory:
    """MiB resident, of a process and its children, second by second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.mib = pid, list[float]()

    async def watch(self) -> None:
        while True:
            self.mib.append(sum(map(resident_mib, processes(self.pid))))
            await asyncio.sleep(1)


def processes(pid: int) -> Iterator[int]:
    """A process and its children, by what the kernel lists of each: a look at all processes would delay the sender."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for child in children.read_text().split():
                yield from processes(int(child))


def resident_mib(pid: int) -> float:
    """0 for a process that has ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


async def told(sent: Sent, memory: Memory) -> None:
    """Every minute, on stderr, how it was."""
    say, seen, failed, shed = Console(stderr=True).print, 0, 0, 0
    for minute in range(sys.maxsize):
        await asyncio.sleep(MINUTE)
        waited, seen = sent.waited[seen:], len(sent.waited)
        p99, mib = np.percentile(waited or [np.nan], 99) * 1e3, np.median(memory.mib[-MINUTE:])
        say(
            f"minute {minute}: {len(waited) / MINUTE:.0f} rps, p99 {p99:.1f} ms, {mib:.0f} MiB, "
            f"{sent.failed - failed} failed, {sent.statuses[503] - shed} of them shed"
        )
        failed, shed = sent.failed, sent.statuses[503]


async def soaked(shop: Shop, messages: Sequence[bytes], minutes: int, sent: Sent, memory: Memory) -> None:
    rate = SHARE * await saturated(shop.port, messages, 5)
    async with asyncio.TaskGroup() as beside:
        others = (shop.upsert(), shop.publish(), memory.watch(), told(sent, memory))
        tasks = [beside.create_task(other) for other in others]
        await arriving(shop.port, messages, rate, (QUIET + 1 + minutes) * MINUTE, sent)
        for task in tasks:
            task.cancel()


def figures(sent: Sent, memory: Memory, minutes: int, swaps: Sequence[float]) -> dict[str, harness.Figure]:
    due, waited = np.array(sent.due), np.array(sent.waited)
    p99 = [np.percentile(waited[due // MINUTE == n], 99) * 1e3 for n in range(QUIET + 1 + minutes)]
    mib = [np.median(memory.mib[n * MINUTE : (n + 1) * MINUTE]) for n in range(QUIET + 1 + minutes)]
    return {
        "minutes": minutes,
        "rps": len(waited) / float((due + waited).max()),
        "rss_start_mib": float(mib[QUIET]),
        "rss_end_mib": float(mib[-1]),
        "rss_growth": float(mib[-1] / mib[QUIET]),
        "p99_start_ms": float(p99[QUIET]),
        "p99_end_ms": float(p99[-1]),
        "p99_worst_ms": float(max(p99[QUIET + 1 :])),
        "p99_ratio": float(max(p99[QUIET + 1 :]) / p99[QUIET]),
        "swaps": len(swaps),
        "swap_seconds": max(swaps, default=minutes * MINUTE),  # none: it takes longer than the benchmark
        "sender_late_ms": float(np.percentile(sent.late, 99.9) * 1e3),
        "failed": sent.failed,
        "shed": sent.statuses[503],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the bundle of a million items is kept")
    parser.add_argument("--minutes", type=int, default=10)
    options = parser.parse_args()
    os.environ["CORANK_TOKEN"] = "soak"
    with million(options.folder) as made, tempfile.TemporaryDirectory() as folder:
        shop = Shop(made, Path(folder))
        messages = UserMessages(made.requests(REQUESTS))
        with serving(shop.command(), shop.port) as service:
            sent, memory = Sent(), Memory(service.pid)
            run(soaked(shop, messages, options.minutes, sent, memory))
    results = figures(sent, memory, options.minutes, shop.swaps)
    harness.report("soak", results, AIMS, options.json)


if __name__ == "__main__":
    main()
