"""Restarts of workers and of services under load: requests that were fully sent and never answered.

- `renewed`: a service of two workers gets SIGHUP again and again; each time both make way for new ones.
- `killed`: a worker of it gets SIGKILL. What it was answering is gone, which no server can prevent: `killed.in_flight`
  counts such requests, sent before a kill or within a tenth of a second after it; any other one is `lost`.
- `service`: a service alone, on a socket that it inherits as from systemd, gets SIGTERM, ends and starts again.
  Connections wait in the socket meanwhile, so `longest_wait_seconds` is about the time of a start.
- `replicas_N`: two replicas of N workers behind a balancer that sends to those that say ready, as it saw at its last
  look. One after the other gets SIGTERM, ends, and starts again.

Clients keep their connections and honour `Connection: close`. `lost` counts requests that were sent whole on an open
connection and got no answer; `refused` those answered by another status than 200; `nowhere` those that nobody took a
connection for. `worker_restarts` and `service_restarts` count all.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks import harness
from benchmarks.load import Connection, arrivals, message, run
from benchmarks.replicas import STARTED, Replica, kill_all, wait_until
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
NOTICED_SECONDS = 0.1
"""Time in which a client notices that a connection has ended."""
WORKERS = 2
LONGEST_SECONDS = 3600.0
"""Of a phase."""
AIMS = {"lost": ("==", 0.0)}


@dataclass
class Counts:
    """Outcomes of requests."""

    sent: int = 0
    lost: int = 0
    refused: int = 0
    nowhere: int = 0
    in_flight: int = 0
    restarts: int = 0
    kill_times: list[float] = field(default_factory=list)
    """Moments of `time.monotonic`."""
    longest_wait: float = 0.0
    """Seconds until an answer."""
    stop_seconds: list[float] = field(default_factory=list)

    def count_lost(self, sent_at: float) -> None:
        """Count a request that got no answer."""
        if self.kill_times and sent_at <= self.kill_times[-1] + NOTICED_SECONDS:
            self.in_flight += 1
        else:
            self.lost += 1


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
            states = await asyncio.gather(*looks)
            self.ready = [one.port for one, ready in zip(self.replicas, states, strict=True) if ready]
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
        """Send a request and count its outcome."""
        counts, link = self._balancer.counts, self._held
        if link is None or link[0].closes or link[1] not in self._balancer.ready:
            if link is not None:
                link[0].close()
            link = self._held = await self._balancer.connect()
        if link is None:
            counts.nowhere += 1
            return
        try:
            answer = link[0].ask(sent)
        except ConnectionError:  # closed before anything was sent
            self._held = None
            await self.send(sent)
            return
        counts.sent += 1
        began = time.monotonic()
        try:
            status, _ = await answer
        except ConnectionError:
            counts.count_lost(began)
            self._held = None
        else:
            counts.refused += status != 200
            counts.longest_wait = max(counts.longest_wait, time.monotonic() - began)


async def send_until(balancer: Balancer, messages: Sequence[bytes], done: asyncio.Event) -> None:
    """Send requests when they come until an event is set, each by a client that is free."""
    free: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(CLIENTS):
        free.put_nowait(Client(balancer))

    async def send(number: int) -> None:
        client = await free.get()
        await client.send(messages[number % len(messages)])
        free.put_nowait(client)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(arrivals(RATE, LONGEST_SECONDS)):
            await asyncio.sleep(began + moment - time.perf_counter())
            if done.is_set():
                break
            group.create_task(send(number))


async def restart_all(replicas: Sequence[Replica], counts: Counts, times: int) -> None:
    """Restart one replica after the other."""
    for n in range(times):
        replica = replicas[n % len(replicas)]
        counts.stop_seconds.append(await asyncio.to_thread(replica.stop))
        await asyncio.to_thread(replica.start)
        counts.restarts += 1
        await asyncio.sleep(SETTLE_SECONDS)


async def renew(replica: Replica, counts: Counts, times: int) -> None:
    """Let all workers make way for new ones, again and again."""
    for _ in range(times):
        before = replica.workers()
        assert replica.process is not None
        replica.process.send_signal(signal.SIGHUP)
        await wait_for_workers(replica, before, "all")
        counts.restarts += len(before)


async def kill_workers(replica: Replica, counts: Counts, times: int) -> None:
    """Kill one worker after the other, each when another process is in the place of the one before."""
    for _ in range(times):
        before = replica.workers()
        counts.kill_times.append(time.monotonic())
        os.kill(min(before), signal.SIGKILL)
        await wait_for_workers(replica, before, "one")
        await asyncio.sleep(SETTLE_SECONDS)
        counts.restarts += 1


async def wait_for_workers(replica: Replica, before: set[int], new: Literal["one", "all"]) -> None:
    """Wait until there are as many as before and one, or all, are new. Raises RuntimeError if they are late."""

    def holds() -> bool:
        now = replica.workers()
        return len(now) == len(before) and (now != before if new == "one" else not now & before)

    if not await asyncio.to_thread(wait_until, holds, STARTED):
        raise RuntimeError(f"workers are not there after {STARTED:g} s")


async def measure(
    replicas: Sequence[Replica],
    messages: Sequence[bytes],
    disturb: Callable[[Counts], Awaitable[None]],
    looks: bool = False,
) -> Counts:
    """Count the outcomes of requests while replicas are disturbed; all get some, or those that say ready."""
    counts, done = Counts(), asyncio.Event()
    balancer = Balancer(replicas, counts, [replica.port for replica in replicas])
    looking = asyncio.create_task(balancer.look()) if looks else None
    sending = asyncio.create_task(send_until(balancer, messages, done))
    try:
        await disturb(counts)
        await asyncio.sleep(SETTLE_SECONDS)
    finally:
        done.set()
        await sending
        if looking is not None:
            looking.cancel()
    return counts


def figures_of(name: str, counts: Counts) -> dict[str, harness.Figure]:
    """The figures of a phase."""
    keys = ("sent", "lost", "refused", "nowhere", "restarts")
    figures: dict[str, harness.Figure] = {f"{name}.{key}": getattr(counts, key) for key in keys}
    figures[f"{name}.longest_wait_seconds"] = round(counts.longest_wait, 3)
    if counts.stop_seconds:
        figures[f"{name}.longest_stop_seconds"] = round(max(counts.stop_seconds), 2)
    return figures


def disturb_workers(
    bundle: Path, folder: Path, messages: Sequence[bytes], renewals: int, kills: int
) -> Iterator[tuple[str, Counts]]:
    """Renew and kill the workers of a service."""
    replica = Replica(str(bundle), folder, "--workers", WORKERS)
    try:
        replica.start()  # which is ready once its first worker is
        if not wait_until(lambda: len(replica.workers()) == WORKERS, STARTED):
            raise RuntimeError(f"{WORKERS} workers are not there after {STARTED:g} s")
        yield "renewed", run(measure([replica], messages, lambda counts: renew(replica, counts, renewals)))
        yield "killed", run(measure([replica], messages, lambda counts: kill_workers(replica, counts, kills)))
    finally:
        kill_all([replica])


def restart_alone(bundle: Path, folder: Path, messages: Sequence[bytes], times: int) -> Counts:
    """Restart a service on a socket that stays open."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        replica = Replica(str(bundle), folder, "--workers", 1, "--drain-seconds", 0, listener=listener)
        try:
            replica.start()
            return run(measure([replica], messages, lambda counts: restart_all([replica], counts, times)))
        finally:
            kill_all([replica])


def restart_replicas(
    bundle: Path, folder: Path, messages: Sequence[bytes], workers: int, times: int
) -> Counts:
    """Restart two replicas behind a balancer."""
    replicas = [Replica(str(bundle), folder / str(n), "--workers", workers) for n in range(2)]
    try:
        for replica in replicas:
            replica.start()
        return run(
            measure(replicas, messages, lambda counts: restart_all(replicas, counts, times), looks=True)
        )
    finally:
        kill_all(replicas)


def run_phases(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Counts]]:
    """Train a model, serve it, and restart what serves it in each way."""
    bundle, trained = first(folder, ITEMS)
    bodies = [logged_request(trained, "test", number) | {"trace": False} for number in range(REQUESTS)]
    messages = [message(json.dumps(body).encode()) for body in bodies]
    yield from disturb_workers(bundle, folder / "workers", messages, options.renewals, options.kills)
    yield "service", restart_alone(bundle, folder / "service", messages, options.restarts)
    for workers in (1, 2):
        name, times = f"replicas_{workers}", options.replica_restarts
        yield name, restart_replicas(bundle, folder / name, messages, workers, times)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renewals", type=int, default=45, help="of two workers each")
    parser.add_argument("--kills", type=int, default=10, help="of a worker")
    parser.add_argument("--restarts", type=int, default=20, help="of the service on its own socket")
    parser.add_argument("--replica-restarts", type=int, default=10, help="for each number of workers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    phases = dict[str, Counts]()
    with tempfile.TemporaryDirectory() as temporary:
        for name, counts in run_phases(Path(temporary), options):
            phases[name] = counts
            line = f"{name}: {counts.restarts} restarts, {counts.sent:,} requests, {counts.lost} lost"
            Console(stderr=True).print(line)
    figures: dict[str, harness.Figure] = {
        "worker_restarts": phases["renewed"].restarts + phases["killed"].restarts,
        "service_restarts": sum(
            counts.restarts for name, counts in phases.items() if name not in ("renewed", "killed")
        ),
        "lost": sum(counts.lost for counts in phases.values()),
        "killed.in_flight": phases["killed"].in_flight,
    }
    for name, counts in phases.items():
        figures |= figures_of(name, counts)
    harness.report("sigterm", figures, AIMS, options.json)


if __name__ == "__main__":
    main()
