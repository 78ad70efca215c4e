"""Memory of a worker that logs what it serves, beside one that does not.

Requests of 1,000 candidates with columns of the user, of the context and a history go to `corank serve`, from several
connections that each send again at once, with `--log` and without. A second pass sends small requests at a fixed rate,
for what logging costs them in latency.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

import corank
from benchmarks import harness, load
from corank.analysis.logged_request import logged_request
from corank.datasets.feed.simulate import simulate_world
from corank.training.run import Run
from tests.support.service import running_service, workers_of

CANDIDATES, ITEMS, SMALL = 1_000, 20_000, 20
RATE = 100.0
"""Small requests a second."""


def make_requests(run: Run, count: int, candidates: int) -> list[bytes]:
    """Logged requests, with so many candidates of the whole catalogue each and a history of fifty."""
    rng, messages = np.random.default_rng(0), []
    for number in range(count):
        request: dict[str, Any] = logged_request(run, "test", number)
        del request["time"]  # now
        # items are numbered from 1
        chosen = rng.choice(ITEMS, size=(2, max(candidates, 50)), replace=False) + 1
        request["candidates"] = chosen[0][:candidates].tolist()
        for history in run.config.declared.histories():
            request["user"][history] = chosen[1][:50].tolist()
        messages.append(load.message(json.dumps(request).encode()))
    return messages


def measure(
    bundle: Path, folder: Path, large: Sequence[bytes], small: Sequence[bytes], seconds: float, *options: str
) -> dict[str, float]:
    """Peak memory in MiB, requests a second when saturated, and p99 of small requests, of one service."""
    with running_service(str(bundle), folder / "cache", *options) as (url, process):
        port = int(url.rpartition(":")[2])
        sent = load.Sent()
        rate = load.run(load.saturated(port, large, seconds))
        load.run(load.arriving(port, small, RATE, seconds, sent))
        return {
            "peak_rss_mib": peak_rss(*workers_of(process)),
            "requests_per_second": rate,
            "p99_ms": sent.percentile(99),
        }


def peak_rss(process: psutil.Process) -> float:
    """The largest resident memory of a process so far, MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("a world, a model, its bundle …")
        simulate_world(folder / "world", requests=1_000, items=ITEMS)
        config = folder / "world" / "config.yaml"
        run = corank.train(config, ["train.epochs=1"], folder=folder / "run").run
        corank.export(run.folder, folder / "bundle")
        large, small = make_requests(run, 100, CANDIDATES), make_requests(run, 100, SMALL)
        by_mode = {}
        for name, options in (("plain", ()), ("logged", ("--log", str(folder / "log")))):
            say(f"{name} …")
            by_mode[name] = measure(folder / "bundle", folder, large, small, arguments.seconds, *options)
        files = list((folder / "log").glob("served-*.parquet"))
        logged_mib = sum(file.stat().st_size for file in files) / 2**20
    figures = {f"{name}.{key}": value for name, part in by_mode.items() for key, value in part.items()}
    figures |= {"rss_ratio": by_mode["logged"]["peak_rss_mib"] / by_mode["plain"]["peak_rss_mib"]}
    figures |= {"p99_ratio": by_mode["logged"]["p99_ms"] / by_mode["plain"]["p99_ms"]}
    figures |= {"files": len(files), "logged_mib": logged_mib}
    harness.report("log_memory", figures, {"rss_ratio": ("<=", 1.3)}, arguments.json)


if __name__ == "__main__":
    main()
