"""A service under load while another process publishes one version after the other, and items change.

Each of several connections sends its next request shortly after a response: first while items change, then while
versions go live, too.
`upserts_refused` counts changes of items that the service did not take; `live_to_served_s` is the time from the swap of
the head until the service answers by the version.
Every response names its version and the number of the last change of items. Afterwards
`corank_serve.store.fetch.restore` computes each response again for the state that it names; a response counts as
`mixed` if its ids or scores differ. `told_apart` is the share of states in which some response differs from that of the
state before, that is, how much the comparison can detect.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import harness
from benchmarks.load import Connection, free_port, message, on_core, run, serving
from benchmarks.robustness.store_outages import serve_command
from benchmarks.robustness.store_work import AT_ONCE, MARK, Worker
from benchmarks.robustness.user_load import Asked, asked_during, of_user
from corank.analysis.logged_request import logged_request
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run
from corank_serve.store.base import open_store
from corank_serve.store.fetch import fetch_bundle, restore
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import changing, first, variant
from tests.support.redis_server import redis_server

ITEMS, REQUESTS = 3000, 50
UPSERT_EVERY = 1.0
TOLERANCE = 1e-5
AIMS = {
    "failed": ("==", 0.0),
    "mixed": ("==", 0.0),
    "upserts_refused": ("==", 0.0),
}


@dataclass
class Upserts:
    """What became of changes of items."""

    taken: int = 0
    refused: int = 0


async def upsert(port: int, rows: list[dict[str, Any]], upserts: Upserts) -> None:
    """Items change, until it is cancelled: each has the columns of another. What is refused is sent again at once."""
    rng = random.Random(0)
    connection, token = await Connection.open(port), f"Authorization: Bearer {os.environ['CORANK_TOKEN']}"
    for number in range(MARK, sys.maxsize):
        ids = [row["id"] for row in rng.sample(rows, AT_ONCE)]
        items = [
            row | {"id": id_, "worth": number}
            for id_, row in zip(ids, rng.sample(rows, AT_ONCE), strict=True)
        ]
        sent = message(msgspec.json.encode({"items": items}), "/items", token)
        while (reply := await connection.ask(sent))[0] == 503:
            upserts.refused += 1
        if reply[0] != 200:
            raise RuntimeError(f"{reply[0]}: {reply[1].decode()}")
        upserts.taken += 1
        await asyncio.sleep(UPSERT_EVERY)


async def finished(worker: Worker, seconds: list[float]) -> None:
    """A worker's work, from its beginning; it prints of each version how long it was live before it was served."""
    worker.begin()
    printed = await asyncio.to_thread(worker.finish)
    if worker.process.returncode:
        raise RuntimeError(f"{worker.process.args!r}: exit {worker.process.returncode}")
    seconds += map(float, printed.split())


@dataclass
class Computed:
    """Results of the comparison."""

    states: int = 0
    mixed: int = 0
    told_apart: int = 0


def computed(
    url: str, cache: Path, bodies: Sequence[dict[str, Any]], answers: Sequence[tuple[int, int, bytes]]
) -> Computed:
    """Every answer anew, by the version and the change that it names."""
    comparison, before = Computed(), None
    by_state: dict[tuple[str, int], list[tuple[Request, dict[str, Any]]]] = defaultdict(list)
    for number, user, body in answers:
        answer, request = msgspec.json.decode(body), Request.parse(of_user(bodies[number], user))
        by_state[answer["model_version"], answer["items_seq"]].append((request, answer))
    with closing(open_store(url)) as store:
        names = {facts.model_version: name for name, facts in StoreState.read(store)[1].versions.items()}
        bundle = None
        for (model, seq), some in track(
            sorted(by_state.items()), "computing anew", console=Console(stderr=True)
        ):
            if bundle is None or bundle.manifest.model_version != model:
                bundle = Funnel(fetch_bundle(store, names[model], cache))
            funnel = restore(store, names[model], bundle, seq)
            comparison.states += 1
            comparison.mixed += sum(not same(funnel.rank(request), answer) for request, answer in some)
            if before is not None:
                comparison.told_apart += any(
                    not same(before.rank(request), answer) for request, answer in some
                )
            before = funnel
    return comparison


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two answers have the same items in the same order, near the same scores, and know the same items."""
    mine, other = ours["items"], theirs["items"]
    return (
        [item["id"] for item in mine] == [item["id"] for item in other]
        and all(abs(a["score"] - b["score"]) <= TOLERANCE for a, b in zip(mine, other, strict=True))
        and ours["unknown"] == theirs["unknown"]
    )


def requests(run: Run, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logged ones, with the items that change among their candidates."""
    bodies = []
    for number in range(REQUESTS):
        request = logged_request(run, "test", number) | {"trace": False}
        logged = {candidate["id"] for candidate in request["candidates"]}
        request["candidates"] += [
            {"id": row["id"], "category_clicks": 0.0} for row in rows if row["id"] not in logged
        ]
        bodies.append(request)
    return bodies


def served(
    url: str,
    home: Path,
    bodies: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
) -> tuple[Asked, Asked, dict[str, harness.Figure]]:
    """Outcomes of requests without swaps, for a quarter of the time, and with them; and of all else."""
    with closing(open_store(url, create=True)) as store:
        publish_bundle(home.parent / "1", store)
    port, every = free_port(), options.seconds / options.swaps
    with serving(serve_command(url, home / "cache", port), port), on_core(-1):
        swapper = Worker("swapper", home, url, port, every, options.swaps)
        upserts, late = Upserts(), list[float]()
        waits = asyncio.sleep(options.seconds / 4)
        steady = run(asked_during(waits, port, bodies, upsert(port, rows, upserts)))
        swapped = run(asked_during(finished(swapper, late), port, bodies, upsert(port, rows, upserts)))
        others: dict[str, harness.Figure] = {
            "upserts": upserts.taken,
            "upserts_refused": upserts.refused,
            "live_to_served_s": float(np.median(late)),
            "live_to_served_max_s": max(late),
        }
        return steady, swapped, others


def figures(
    steady: Asked, swapped: Asked, others: dict[str, harness.Figure], compared: Computed
) -> dict[str, harness.Figure]:
    read = [msgspec.json.decode(body) for _, _, body in swapped.answers]
    versions = {answer["model_version"] for answer in read}
    return {
        "swaps": len(versions) - 1,
        "requests": len(steady.answers) + len(swapped.answers),
        "failed": steady.failed + swapped.failed,
        "mixed": compared.mixed,
        "states": compared.states,
        "told_apart": compared.told_apart / max(1, compared.states - 1),
        **others,
        "steady_p50_ms": steady.milliseconds(50),
        "steady_p99_ms": steady.milliseconds(99),
        "swapping_p50_ms": swapped.milliseconds(50),
        "swapping_p99_ms": swapped.milliseconds(99),
    }


@contextmanager
def stored(kind: str, folder: Path) -> Iterator[str]:
    """The address of a new store."""
    if kind == "lmdb":
        yield f"lmdb:{folder / 'store'}"
    else:
        with redis_server(folder) as server:
            yield server.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", choices=("lmdb", "redis"), default="lmdb")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=120, help="in which versions go live")
    options = parser.parse_args()
    os.environ["CORANK_TOKEN"] = "hot swap"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        bundle, trained = first(folder, ITEMS)
        for number in range(1, options.swaps + 2):
            variant(bundle, folder / f"{number}", number)
        rows, home = changing(trained), folder / "home"
        home.mkdir()
        url, bodies = stack.enter_context(stored(options.store, home)), requests(trained, rows)
        steady, swapped, others = served(url, home, bodies, rows, options)
        compared = computed(url, home / "again", bodies, steady.answers + swapped.answers)
    results = figures(steady, swapped, others, compared)
    harness.report("hot_swap", results, AIMS | {"swaps": (">=", options.swaps)}, options.json)


if __name__ == "__main__":
    main()
