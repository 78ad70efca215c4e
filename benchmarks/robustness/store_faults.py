"""Processes that write to a store, killed with SIGKILL at random moments while a reader follows it.

After every kill the store is checked by store_witness.py, and publishing again must succeed. The reader must never see
another state than that of the change that it names. All the time a service follows the store, and users ask it. Figures
of each store: `tries`, with two processes each; `killed` processes; `half_written`, the versions that were incomplete
after a kill; `looks` of the reader and the `states` that it saw; `wrong` tries; `requests` of users, and how many of
them `failed`.

Further cases: a server whose Redis is stopped and started again; a store whose map, or whose disk, is too small.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.load import free_port, run, serving
from benchmarks.robustness.store_outages import away, full_disk, full_map, serve_command
from benchmarks.robustness.store_witness import Witness
from benchmarks.robustness.store_work import MARK, UPSERTS, Worker
from benchmarks.robustness.user_load import Asked, asked_during
from corank.analysis.logged_request import logged_request
from corank.core.errors import StoreError
from corank_serve.store.base import Store, open_store
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import list_versions
from tests.support.bundle_versions import changing, first, variant
from tests.support.redis_server import binary, redis_server

BUNDLES = 4
ITEMS = 2000
AIMS_OF_STORE = {"wrong": ("==", 0.0), "failed": ("==", 0.0)}
AIMS = {f"{kind}_{key}": aim for kind in ("lmdb", "redis") for key, aim in AIMS_OF_STORE.items()} | {
    "away_failed": ("==", 0.0),
    "away_told": ("==", 1.0),
    "away_recovered": ("==", 1.0),
    "map_full_told": ("==", 1.0),
    "disk_full_told": ("==", 1.0),
}


@dataclass
class Found:
    tries: int = 0
    killed: int = 0
    half_written: int = 0
    wrong: int = 0
    looks: int = 0
    states: int = 0


def served(
    url: str,
    folder: Path,
    bundles: dict[int, Path],
    asked: list[dict[str, Any]],
    tries: int,
    rng: random.Random,
) -> dict[str, harness.Figure]:
    """Results of kills, and outcomes of requests meanwhile."""
    with closing(open_store(url, create=True)) as store:
        publish_bundle(bundles[1], store)
    port = free_port()

    async def kill() -> tuple[Found, Asked]:
        kills = asyncio.create_task(asyncio.to_thread(tried, url, folder, bundles, tries, rng))
        answers = await asked_during(kills, port, asked)
        return kills.result(), answers

    with serving(serve_command(url, folder / "cache", port), port):
        outcome, answers = run(kill())
    requests: dict[str, harness.Figure] = {"requests": len(answers.answers), "failed": answers.failed}
    return vars(outcome) | requests


def tried(url: str, folder: Path, bundles: dict[int, Path], tries: int, rng: random.Random) -> Found:
    """Results of kills."""
    outcome = Found()
    with closing(open_store(url)) as store:
        witness = Witness(store, bundles)
        seconds = _unbroken(url, folder, witness)
        reader = Worker("reader", folder, url)
        reader.begin()
        try:
            workers = _workers(url, folder, 0)
            for n in range(tries):
                outcome.killed += _kill(workers, seconds, witness, rng)
                workers = _workers(url, folder, n + 1)  # they load while the store is looked at
                outcome.half_written += any(one.facts is None for one in list_versions(store))
                complaints = [*witness.wrong(), *_again(store, bundles[_number(n)])]
                outcome.tries, outcome.wrong = outcome.tries + 1, outcome.wrong + bool(complaints)
                _tell(n, complaints)
            for worker in workers:
                worker.process.kill()
                worker.finish()
        finally:
            (folder / "enough").touch()
            reader.finish()
        lines = [
            json.loads(line) for line in (folder / "seen.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        outcome.looks, outcome.states = lines[-1]["looks"], len(lines) - 1
        complaints = [*witness.wrong(), *witness.wrong_seen(lines)]
        outcome.wrong += bool(complaints)
        _tell(tries, complaints)
    return outcome


def _number(n: int) -> int:
    """Of the bundle that a try publishes."""
    return 2 + n % (BUNDLES - 1)


def _workers(url: str, folder: Path, n: int) -> list[Worker]:
    publishes = Worker("publisher", folder, url, _number(n))
    return [publishes, Worker("upserter", folder, url, MARK + (n + 1) * UPSERTS)]


def _unbroken(url: str, folder: Path, witness: Witness) -> list[float]:
    """How long each takes when nobody kills it."""
    seconds = []
    workers = _workers(url, folder, -1)
    for worker in workers:
        worker.begin()
    began = time.perf_counter()
    for worker in workers:
        _confirm(worker.finish(), witness)
        seconds.append(time.perf_counter() - began)
    return seconds


def _kill(workers: list[Worker], seconds: list[float], witness: Witness, rng: random.Random) -> int:
    """Kill each at a moment of its own; how many were at work."""
    for worker in workers:
        worker.begin()
    began = time.perf_counter()
    moments = [rng.uniform(0, most) for most in seconds]
    for moment, worker in sorted(zip(moments, workers, strict=True), key=lambda one: one[0]):
        time.sleep(max(0, began + moment - time.perf_counter()))
        worker.process.kill()
    for worker in workers:
        _confirm(worker.finish(), witness)
    return sum(worker.process.returncode < 0 for worker in workers)


def _confirm(said: str, witness: Witness) -> None:
    """Record upserts that were confirmed."""
    for line in said.splitlines():
        if line.endswith("]"):  # a line may be cut short
            seq, number = json.loads(line)
            witness.confirmed[seq] = number


def _again(store: Store, bundle: Path) -> Iterator[str]:
    try:
        version = publish_bundle(bundle, store)
        if StoreState.read(store)[1].live != version:
            yield "published again, it is not live"
    except StoreError as error:
        yield f"publishing again: {error}"


def _tell(n: int, complaints: list[str]) -> None:
    for complaint in complaints:
        sys.stderr.write(f"try {n}: {complaint}\n")


def made(folder: Path) -> tuple[dict[int, Path], list[dict[str, Any]]]:
    """Bundles by number, and requests; writes the rows for upserts next to them."""
    bundle, run = first(folder, ITEMS)
    bundles = {n: variant(bundle, folder / f"{n}", n) for n in range(1, BUNDLES + 1)}
    (folder / "rows.json").write_text(json.dumps(changing(run)), encoding="utf-8")
    return bundles, [logged_request(run, "test", n) | {"trace": False} for n in range(20)]


def figures(
    folder: Path, bundles: dict[int, Path], asked: list[dict[str, Any]], tries: int, rng: random.Random
) -> Iterator[tuple[str, harness.Figure]]:
    lmdb, redis, kept, full = (folder / name for name in ("lmdb", "redis", "kept", "full"))
    two = [bundles[1], bundles[2]]
    for one in (lmdb, redis, kept, full):
        one.mkdir()
    yield from _named("lmdb", served(f"lmdb:{lmdb / 'store'}", lmdb, bundles, asked, tries, rng))
    if binary() is not None:
        with redis_server(redis) as server:
            yield from _named("redis", served(server.url, redis, bundles, asked, tries, rng))
        with redis_server(kept, keeps=True) as server:
            yield from away(server, kept / "cache", two, asked).items()
    yield "map_full_told", int(full_map(full, two))
    yield "disk_full_told", full_disk(full, two)


def _named(kind: str, values: dict[str, harness.Figure]) -> Iterator[tuple[str, harness.Figure]]:
    for name, value in values.items():
        yield f"{kind}_{name}", value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tries", type=int, default=50, help="of each store")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bundles, asked = made(Path(name))
        rng = random.Random(options.seed)
        results = dict(figures(Path(name), bundles, asked, options.tries, rng))
    aims = {key: aim for key, aim in AIMS.items() if not isinstance(results.get(key, ""), str)}
    harness.report("store_faults", results, aims, options.json)


if __name__ == "__main__":
    main()
