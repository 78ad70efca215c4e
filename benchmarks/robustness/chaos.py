"""A service whose store is killed, stopped, slow, empty, full or of another time, while honest clients ask it.

Half of the time the store is a Redis, half an LMDB folder. Two replicas follow it; a writer upserts and publishes. One
fault follows the other, in random order. The first replica is asked at half of its saturated rate by requests that need
no store, and beside them by some that give only their user's id. After each fault the writer pauses, and every
replica is compared with the store: version, last change, and the scores of sampled requests.

`failed` counts requests without a store that got no answer of status 200, `users_failed` the others; `diverged` counts
replicas that did not equal the store; `p99_ratio` is the worst p99 during a fault over the one before any fault.
"""

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import harness
from benchmarks.load import Sent, arriving, message, run, saturated
from benchmarks.replicas import Replica, kill_all, wait_until
from benchmarks.robustness.chaos_faults import SLOW_SECONDS, Disturbed, DisturbedFolder, DisturbedRedis
from benchmarks.robustness.chaos_writer import Writer
from benchmarks.robustness.hot_swap import requests, same
from corank.core.errors import CorankError
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.store.base import open_store
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.support.bundle_versions import changing, first, variant
from tests.support.redis_server import redis_server
from tests.support.store_faults import SlowProxy

ITEMS, BUNDLES = 2000, 3
USER_RATE = 20.0
"""Requests a second that need a user."""
WINDOW = 12.0
"""Seconds of load around a fault."""
SETTLE = 120.0
"""Seconds in which a replica must equal the store again: its next version is fetched with low priority."""
AIMS = {"failed": ("==", 0.0), "diverged": ("==", 0.0), "p99_ratio": ("<=", 2.0)}


class Trial:
    """A store under faults, and the results."""

    def __init__(self, disturbed: Disturbed, url: str, folder: Path, bodies: list[dict[str, Any]]) -> None:
        """
        Args:
            disturbed: the store with its users.
            url: of the store.
            folder: to work in.
            bodies: of requests.
        """
        self.disturbed, self.url, self.folder, self.bodies = disturbed, url, folder, bodies
        self.failed = self.users_failed = self.diverged = self.requests = self.faults = 0
        self.statuses: Counter[int] = Counter()
        """Of the requests without a store that failed; 0 for no answer."""
        self.quiet = self.settled = 0.0
        """p99 without a fault, ms; the longest time until all replicas equalled the store, seconds."""
        self.worst: dict[str, float] = {}
        """p99 in ms by fault."""

    def run(self, seconds: float, load: float, rng: random.Random) -> None:
        """Disturb the store for so long, at a share of the saturated rate."""
        whole = [message(json.dumps(body).encode()) for body in self.bodies]
        users = [
            message(json.dumps(body | {"user": {"id": body["user"]["id"]}}).encode()) for body in self.bodies
        ]
        port, end = self.disturbed.replicas[0].port, time.monotonic() + seconds
        rate = load * run(saturated(port, whole, 5.0))
        self.quiet = self._ask(whole, users, rate, None)
        faults: dict[str, Any] = self.disturbed.faults  # type: ignore[attr-defined]
        waiting: list[str] = []
        while time.monotonic() < end:
            waiting = waiting or rng.sample(sorted(faults), len(faults))
            name = waiting.pop()
            p99 = self._ask(whole, users, rate, faults[name])
            self.worst[name] = max(p99, self.worst.get(name, 0.0))
            self.faults += 1
            differing = self._compare()
            self.diverged += differing
            Console(stderr=True).print(
                f"{name}: p99 {p99:.1f} ms, {self.failed} failed, {differing} diverged"
            )

    def _ask(self, whole: Sequence[bytes], users: Sequence[bytes], rate: float, fault: Any) -> float:
        """Send requests, during a fault if one is given; return the p99 of those that need no store, ms."""
        of_whole, of_users = Sent(), Sent()
        port = self.disturbed.replicas[0].port

        async def send() -> None:
            disturbing = asyncio.create_task(asyncio.to_thread(fault)) if fault is not None else None
            await asyncio.gather(
                arriving(port, whole, rate, WINDOW, of_whole),
                arriving(port, users, USER_RATE, WINDOW, of_users),
            )
            if disturbing is not None:
                await disturbing

        run(send())
        self.failed, self.users_failed = self.failed + of_whole.failed, self.users_failed + of_users.failed
        self.requests += len(of_whole.due) + of_whole.failed
        self.statuses += of_whole.statuses
        return of_whole.percentile(99)

    def _compare(self) -> int:
        """Pause the writer once something is live, and return how many replicas do not equal the store."""
        if not wait_until(self._is_live, SETTLE):
            raise RuntimeError("the writer has published nothing")
        self.disturbed.writer.kill()  # which releases what it has locked
        time.sleep(SLOW_SECONDS * 2)  # what it has sent arrives
        began = time.monotonic()
        with closing(open_store(self.url)) as store:
            _, state = StoreState.read(store)
            live = state.require_live(store)
            shutil.rmtree(self.folder / "compared", ignore_errors=True)
            bundle = fetch_bundle(store, live, self.folder / "compared")
            funnel = load_latest(store, live, Funnel(bundle))
        equal = [
            wait_until(partial(self._equals, replica, funnel), SETTLE) for replica in self.disturbed.replicas
        ]
        self.settled = max(self.settled, time.monotonic() - began)
        self.disturbed.writer.start()
        return len(equal) - sum(equal)

    def _is_live(self) -> bool:
        try:
            with closing(open_store(self.url)) as store:
                return StoreState.read(store)[1].live is not None
        except CorankError:
            return False

    def _equals(self, replica: Replica, funnel: Funnel) -> bool:
        """Whether a replica answers as the store's state does."""
        _, version = replica.get("/version")
        names = ("model_version", "items_seq")
        if version is None or any(version[name] != getattr(funnel.manifest, name) for name in names):
            return False
        answers = ((replica.get("/rank", body)[1], funnel.rank(Request.parse(body))) for body in self.bodies)
        return all(theirs is not None and same(ours, theirs) for theirs, ours in answers)


def open_trial(
    kind: str,
    folder: Path,
    bundles: Sequence[Path],
    rows: Path,
    bodies: list[dict[str, Any]],
    exits: ExitStack,
) -> Trial:
    """Publish into a new store of a kind, and start all its users; `exits` ends them."""
    rng = random.Random(0)
    if kind == "redis":
        (folder / "redis").mkdir(parents=True)
        server = exits.enter_context(redis_server(folder / "redis", keeps=True))
        proxy = SlowProxy(server.port)
        url = f"redis://127.0.0.1:{proxy.port}"
    else:
        url = f"lmdb:{folder / 'store'}"
    with closing(open_store(url, create=True)) as store:
        publish_bundle(bundles[0], store)
    options = ("--workers", 1, "--every", 0.2, "--log-share", 0.05, "--log", folder / "log")
    replicas = [Replica(url, folder / f"replica-{n}", *options) for n in range(2)]
    exits.callback(kill_all, replicas)
    for replica in replicas:
        replica.start()
    writer = Writer(url, bundles, rows)
    exits.callback(writer.kill)
    writer.start()
    if kind == "redis":
        data = folder / "redis" / "appendonlydir"
        disturbed: Disturbed = DisturbedRedis(writer, replicas, rng, server, proxy, data)
    else:
        disturbed = DisturbedFolder(writer, replicas, rng, url)
    return Trial(disturbed, url, folder, bodies)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.5, help="share of the saturated rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, harness.Figure] = {"minutes": options.minutes, "failed": 0, "diverged": 0}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle, trained = first(folder, ITEMS)
        bundles = [variant(bundle, folder / f"{number}", number) for number in range(1, BUNDLES + 1)]
        rows, items = folder / "rows.json", changing(trained)
        rows.write_text(json.dumps(items), encoding="utf-8")
        bodies = requests(trained, items)
        for kind in ("redis", "lmdb"):
            Console(stderr=True).print(f"{kind} …")
            with ExitStack() as exits:
                trial = open_trial(kind, folder / kind, bundles, rows, bodies, exits)
                trial.run(options.minutes * 30, options.load, random.Random(options.seed))
            ratios += [p99 / trial.quiet for p99 in trial.worst.values()]
            for key in ("failed", "diverged"):
                figures[key] = int(figures[key]) + getattr(trial, key)
            for key in ("requests", "failed", "users_failed", "diverged", "faults"):
                figures[f"{kind}.{key}"] = getattr(trial, key)
            figures |= {f"{kind}.status_{status}": count for status, count in trial.statuses.items()}
            figures[f"{kind}.settle_seconds"] = trial.settled
            figures[f"{kind}.quiet_p99_ms"] = trial.quiet
            figures |= {f"{kind}.{name}_p99_ms": p99 for name, p99 in trial.worst.items()}
    figures["p99_ratio"] = max(ratios)
    harness.report("chaos", figures, AIMS, options.json)


if __name__ == "__main__":
    main()
