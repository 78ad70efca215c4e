"""Rolling restarts of two replicas under load: requests that were fully sent and never answered.

A balancer sends to the replicas that say ready, as it saw at its last look. One replica after the other gets SIGTERM,
ends, and starts again. Clients keep their connections and honour `Connection: close`. `lost` counts requests that were
sent whole on an open connection and got no answer; `refused` those answered by another status than 200; `nowhere` those
that no replica took a connection for. Once with one worker a replica, once with two.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks import harness
from benchmarks.load import Connection, arrivals, message, run
from benchmarks.replicas import Replica, kill_all
from corank.analysis.logged_request import logged_request
from tests.support.bundle_versions import first

ITEMS, REQUESTS = 500, 50
RATE = 200.0
"""Requests a second."""
CLIENTS = 16
LOOK_SECONDS = 0.1
"""Time between two looks of the balancer: less than the grace time of a replica."""
SETTLE_SECONDS = 1.0
"""Time between two restarts."""
AIMS = {"lost": ("==", 0.0)}


@dataclass
class Counts:
    """What became of requests."""

    sent: int = 0
    lost: int = 0
    refused: int = 0
    nowhere: int = 0
    restarts: int = 0
    stop_seconds: list[float] = field(default_factory=list)


@dataclass
class Balancer:
    """Knows which replicas are ready."""

    replicas: Sequence[Replica]
    counts: Counts
    ready: list[int] = field(default_factory=list)
    """Ports."""
    turn: int = 0

    async def look(self) -> None:
        """Ask the replicas again and again, until cancelled."""
        while True:
            looks = [asyncio.to_thread(replica.is_ready) for replica in self.replicas]
            found = await asyncio.gather(*looks)
            self.ready = [one.port for one, ready in zip(self.replicas, found, strict=True) if ready]
            await asyncio.sleep(LOOK_SECONDS)

    async def connect(self) -> tuple[Connection, int] | None:
        """A connection to a ready replica, each in its turn; None if none takes one."""
        for _ in range(len(self.ready)):
            self.turn += 1
            port = self.ready[self.turn % len(self.ready)]
            with contextlib.suppress(OSError):
                return await Connection.open(port), port
        return None


class Client:
    """Sends one request at a time, over a connection that it keeps while its replica is ready."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._held: tuple[Connection, int] | None = None

    async def send(self, sent: bytes) -> None:
        """Send a request and count what became of it."""
        counts, held = self._balancer.counts, self._held
        if held is None or held[0].closes or held[1] not in self._balancer.ready:
            if held is not None:
                held[0].close()
            held = self._held = await self._balancer.connect()
        if held is None:
            counts.nowhere += 1
            return
        try:
            answer = held[0].ask(sent)
        except ConnectionError:  # closed before anything was sent
            self._held = None
            await self.send(sent)
            return
        counts.sent += 1
        try:
            status, _ = await answer
        except ConnectionError:
            counts.lost += 1
            self._held = None
        else:
            counts.refused += status != 200


async def send_all(balancer: Balancer, messages: Sequence[bytes], seconds: float) -> None:
    """Send requests when they come, each by a client that is free."""
    free: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(CLIENTS):
        free.put_nowait(Client(balancer))

    async def send(number: int) -> None:
        client = await free.get()
        await client.send(messages[number % len(messages)])
        free.put_nowait(client)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(arrivals(RATE, seconds)):
            await asyncio.sleep(began + moment - time.perf_counter())
            group.create_task(send(number))


async def restart_all(replicas: Sequence[Replica], counts: Counts, until: float) -> None:
    """Restart one replica after the other."""
    while time.monotonic() < until:
        for replica in replicas:
            counts.stop_seconds.append(await asyncio.to_thread(replica.stop))
            await asyncio.to_thread(replica.start)
            counts.restarts += 1
            await asyncio.sleep(SETTLE_SECONDS)


async def measure(replicas: Sequence[Replica], messages: Sequence[bytes], seconds: float) -> Counts:
    """Count what becomes of requests while replicas restart."""
    counts = Counts()
    balancer = Balancer(replicas, counts, [replica.port for replica in replicas])
    looking = asyncio.create_task(balancer.look())
    sending = asyncio.create_task(send_all(balancer, messages, seconds))
    await restart_all(replicas, counts, time.monotonic() + seconds)
    await sending
    looking.cancel()
    return counts


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for each number of workers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, harness.Figure] = {"restarts": 0, "lost": 0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle, trained = first(folder, ITEMS)
        bodies = [logged_request(trained, "test", number) | {"trace": False} for number in range(REQUESTS)]
        messages = [message(json.dumps(body).encode()) for body in bodies]
        for workers in (1, 2):
            Console(stderr=True).print(f"{workers} workers …")
            name = f"workers_{workers}"
            replicas = [Replica(str(bundle), folder / f"{name}-{n}", "--workers", workers) for n in range(2)]
            try:
                for replica in replicas:
                    replica.start()
                counts = run(measure(replicas, messages, options.seconds))
            finally:
                kill_all(replicas)
            figures["restarts"] = int(figures["restarts"]) + counts.restarts
            figures["lost"] = int(figures["lost"]) + counts.lost
            for key in ("sent", "lost", "refused", "nowhere", "restarts"):
                figures[f"{name}.{key}"] = getattr(counts, key)
            figures[f"{name}.longest_stop_seconds"] = round(max(counts.stop_seconds), 2)
    harness.report("sigterm", figures, AIMS, options.json)


if __name__ == "__main__":
    main()
