"""Honest clients beside hostile ones: slow heads and bodies, floods of headers, huge filters, unknown ids, idle ones.

A service with one worker, behind nginx as examples/operations/nginx.conf has it, logs what it serves. Honest clients
send requests at a fixed rate. In turn, a process of its own attacks for some seconds. `p99_ratio` is the worst phase's
p99 over that of the quiet phases before and after; `failed` counts honest requests without an answer; memory is that of
the service's processes. `subnormal_ratio` is the time of requests whose numbers are below 2^-126, which some processors
compute with slowly, over that of requests of other small numbers.
"""

import argparse
import asyncio
import json
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

import corank
from benchmarks import harness, load
from benchmarks.robustness.log_memory import make_requests
from corank.datasets.feed.simulate import simulate_world
from corank.training.run import Run
from tests.support.attacks import ATTACKS, attacking
from tests.support.proxies import running_nginx
from tests.support.service import running_service

RATE, CANDIDATES, ITEMS = 50.0, 300, 20_000
OVERRIDES = [
    "train.epochs=1",
    "retrieval={stage: prerank, keep: 200}",
    "features.category.filter=true",
    "features.tags.filter=true",
    *(
        f"features.{name}.scale=none" for name in ("activity", "category_clicks")
    ),  # enter networks as they are
]
AIMS = {
    "p99_ratio": ("<=", 3.0),
    "rss_ratio": ("<=", 2.0),
    "failed": ("==", 0.0),
    "subnormal_ratio": ("<=", 1.25),
}
ROUNDS = 5


@dataclass
class Memory:
    """Resident memory of a service while it is watched, MiB."""

    service: psutil.Process
    peak: float = 0.0
    found: list[float] = field(default_factory=list)

    async def watch(self) -> None:
        while True:
            processes = [self.service, *self.service.children(recursive=True)]
            self.found.append(sum(one.memory_info().rss for one in processes) / 2**20)
            await asyncio.sleep(0.1)


async def measure(port: int, messages: list[bytes], seconds: float, memory: Memory, sent: load.Sent) -> None:
    watching = asyncio.create_task(memory.watch())
    await load.arriving(port, messages, RATE, seconds, sent)
    watching.cancel()


def run_phase(
    name: str | None, service: psutil.Process, port: int, messages: list[bytes], seconds: float
) -> dict[str, float]:
    """Figures of the honest clients and of the service during an attack, or without one."""
    memory, sent = Memory(service), load.Sent()
    with attacking(name, port):
        load.run(measure(port, messages, seconds, memory, sent))
    return {"p99_ms": sent.percentile(99), "peak_rss_mib": max(memory.found), "failed": float(sent.failed)}


def with_number(messages: list[bytes], number: float) -> list[bytes]:
    """The same requests, in which the user and each candidate have a number."""
    changed = []
    for message in messages:
        request = json.loads(message.partition(b"\r\n\r\n")[2])
        request["user"]["activity"] = number
        request["candidates"] = [{"id": id_, "category_clicks": number} for id_ in request["candidates"]]
        changed.append(load.message(json.dumps(request).encode()))
    return changed


def compare_subnormal(port: int, messages: list[bytes], seconds: float) -> float:
    """The time of requests of subnormal numbers over that of other small ones, in turn: the median over rounds."""
    ratios = []
    for _ in range(ROUNDS):
        normal, subnormal = (
            load.run(load.saturated(port, with_number(messages, number), seconds / ROUNDS))
            for number in (1e-20, 1e-40)
        )
        ratios.append(normal / subnormal)
    return float(np.median(ratios))


def summarise(phases: dict[str, dict[str, float]]) -> dict[str, float]:
    """The figures of a run: the worst phase against the quiet ones, then every phase."""
    quiet = [phases.pop("quiet"), phases.pop("quiet_after")]
    p99 = float(np.mean([one["p99_ms"] for one in quiet]))
    peak = max(one["peak_rss_mib"] for one in phases.values())
    figures = {
        "peak_rss_mib": peak,
        "rss_ratio": peak / quiet[0]["peak_rss_mib"],
        "p99_quiet_ms": p99,
        "p99_ratio": max(one["p99_ms"] for one in phases.values()) / p99,
        "failed": sum(one["failed"] for one in [*phases.values(), *quiet]),
    }
    return figures | {f"{name}.{key}": value for name, one in phases.items() for key, value in one.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of every phase")
    parser.add_argument("--only", action="append", choices=list(ATTACKS), help="an attack; repeatable")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("a world, a model, its bundle …")
        simulate_world(folder / "world", requests=1_000, items=ITEMS)
        run = corank.train(folder / "world" / "config.yaml", OVERRIDES, folder=folder / "run").run
        corank.export(run.folder, folder / "bundle")
        messages = make_requests(Run.open(run.folder), 100, CANDIDATES)
        phases: dict[str, dict[str, float]] = {}
        options = ["--log", str(folder / "log")]
        with (
            running_service(str(folder / "bundle"), folder / "cache", *options) as (direct, service),
            running_nginx(direct, folder / "nginx") as url,
        ):
            port = int(url.rpartition(":")[2])
            go = partial(run_phase, service=service, port=port, messages=messages)
            go(None, seconds=arguments.seconds / 2)  # warms up
            for name in ("quiet", *(arguments.only or ATTACKS), "quiet_after"):
                attack_name = name if name in ATTACKS else None
                phases[name] = go(attack_name, seconds=arguments.seconds)
                say(f"{name}: {phases[name]}")
            ratio = compare_subnormal(port, messages, arguments.seconds)
    harness.report("abuse", summarise(phases) | {"subnormal_ratio": ratio}, AIMS, arguments.json)


if __name__ == "__main__":
    main()
