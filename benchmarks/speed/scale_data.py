"""Seconds and memory of pack, train, evaluate and export as the log grows: 10, 30 and 100 million candidates.

The logs have the same items, users, days, validation and test rows, so that only the training rows grow. Each step is a
command of its own. Its memory is read from the process tree while it runs, in MiB: `peak_rss` is that of the largest
process with the pages of files that it has mapped, which the system may take back, `peak_private` the same without
these pages, and `peak_private_sum` that of all processes together. Evaluation and export run in one process.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from benchmarks import harness

MILLION = 1_000_000
CANDIDATES, ITEMS, USERS, BRANDS = 50, 50_000, 200_000, 2_000
HELD_OUT = 250_000
"""Candidates of the validation split, and of the test split."""
DAY, DAYS = 86_400_000, 10
INTERVAL = 0.1
"""Seconds between two readings of memory."""
STEPS = ("pack", "train", "evaluate", "export")

CONFIG = """
name: scale
data:
  log: log/*.parquet
  items: items.parquet
  users: users.parquet
  request: [request]
  user: user
  item: item
  time: time
  level: level
  levels: [retrieved, preranked, exposed]
  labels: {click: {column: click}}
  split: {valid: 1970-01-09, test: 1970-01-10}
features:
  user: {side: user, kind: id}
  age: {side: user, kind: number}
  clicked: {side: user, kind: ids, of: item, event: click, last: 20}
  tab: {side: context, kind: id}
  item: {side: item, kind: id}
  brand: {side: item, kind: id}
  price: {side: item, kind: number, scale: quantile}
  match: {side: cross, kind: number}
  item_ctr: {kind: prior, by: [item], label: click, every: 1d}
  brand_seen: {kind: count, of: [clicked.brand, brand]}
stages:
  - {name: prerank, model: towers, cuts: [retrieved], keep: 20, query: [32], item: [32]}
  - {name: rank, model: mlp, cuts: [preranked], keep: 5, hidden: [32]}
losses:
  - {kind: click, stage: rank}
  - {kind: click, stage: prerank}
train: {epochs: 1, requests: 2048}
"""


def log_part(rng: np.random.Generator, requests: int, first: int, days: tuple[int, int]) -> pl.DataFrame:
    """Candidates of some requests, within a range of days; those of a request have different items."""
    rows = requests * CANDIDATES
    request_of = np.repeat(np.arange(requests), CANDIDATES)
    stratum = (np.tile(np.arange(CANDIDATES), requests) + rng.random(rows)) / CANDIDATES
    item = (ITEMS * stratum**2).astype(np.int64)
    level = rng.choice(3, rows, p=(0.6, 0.25, 0.15))
    match = rng.normal(size=rows).astype(np.float32)
    taste = 1 / (1 + np.exp(2 - 0.5 * match - np.sin(item)))
    click = (level == 2) & (rng.random(rows) < taste)
    moment = np.sort(rng.integers(days[0] * DAY, days[1] * DAY, requests))
    return pl.DataFrame(
        {
            "request": first + request_of,
            "user": rng.integers(0, USERS, requests)[request_of],
            "tab": rng.integers(0, 8, requests)[request_of],
            "time": moment[request_of],
            "item": item,
            "level": pl.Series(["retrieved", "preranked", "exposed"]).gather(level),
            "click": click.astype(np.int8),
            "match": match,
        }
    )


def write_world(folder: Path, candidates: int) -> None:
    """Write the tables of a log of about so many candidates, a million at a time, and the config."""
    (folder / "log").mkdir(parents=True)
    rng = np.random.default_rng(0)
    training, first = (candidates - 2 * HELD_OUT) // CANDIDATES, 0
    parts = [
        (min(MILLION // CANDIDATES, training - n), (0, 8)) for n in range(0, training, MILLION // CANDIDATES)
    ]
    parts += [(HELD_OUT // CANDIDATES, (8, 9)), (HELD_OUT // CANDIDATES, (9, 10))]
    for n, (requests, days) in enumerate(parts):
        log_part(rng, requests, first, days).write_parquet(folder / "log" / f"{n:05d}.parquet")
        first += requests
    items = np.arange(ITEMS)
    price = rng.lognormal(size=ITEMS)
    pl.DataFrame({"item": items, "brand": items % BRANDS, "price": price}).write_parquet(
        folder / "items.parquet"
    )
    users = {"user": np.arange(USERS), "age": rng.integers(18, 80, USERS)}
    pl.DataFrame(users).write_parquet(folder / "users.parquet")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")


@dataclass
class MemoryPeaks:
    """The most memory, in MiB, that a process tree was seen to hold."""

    rss: float = 0
    private: float = 0
    private_sum: float = 0

    def read(self, root: psutil.Process) -> None:
        """Read the memory of the tree now."""
        sizes = [0.0]
        for process in (root, *root.children(recursive=True)):
            with suppress(OSError, psutil.Error):
                status = dict(_kib(Path(f"/proc/{process.pid}/status")))
                self.rss = max(self.rss, status["VmRSS"] / 1024)
                sizes.append((status["RssAnon"] + status["RssShmem"]) / 1024)
        self.private = max(self.private, *sizes)
        self.private_sum = max(self.private_sum, sum(sizes))


def _kib(status: Path) -> Iterator[tuple[str, int]]:
    """The sizes of a process, in KiB; none of one that has just ended."""
    sizes = {"VmRSS": 0, "RssAnon": 0, "RssShmem": 0}
    for line in status.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0])
    yield from sizes.items()


def measure(*arguments: object) -> tuple[float, MemoryPeaks]:
    """Run a command of corank. Returns seconds and memory. Raises RuntimeError if it fails."""
    peaks, begin = MemoryPeaks(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "corank", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error):
                peaks.read(root)
            time.sleep(INTERVAL)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {errors.read()[-2000:]}")
    return time.perf_counter() - begin, peaks


def run_steps(folder: Path, workers: int) -> Iterator[tuple[str, float, MemoryPeaks]]:
    """Run the four steps. Yields each with its seconds and memory."""
    config, run, bundle = folder / "config.yaml", folder / "run", folder / "bundle"
    several = ["--workers", workers] if workers > 1 else []
    commands: dict[str, list[object]] = {
        "pack": ["pack", config, *several],
        "train": ["train", config, "--run", run, *several],
        "evaluate": ["evaluate", run],
        "export": ["export", run, bundle],
    }
    for step in STEPS:
        yield step, *measure(*commands[step])
    for left in (folder / "packed", run, bundle):
        shutil.rmtree(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", default="10,30,100", help="millions of candidates, ascending")
    parser.add_argument("--workers", default="1,2")
    options = parser.parse_args()
    sizes = [float(size) for size in options.sizes.split(",")]
    workers = [int(count) for count in options.workers.split(",")]
    figures: dict[str, harness.Figure] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "world"
            write_world(folder, round(size * MILLION))
            for count in workers:
                for step, seconds, peaks in run_steps(folder, count):
                    key = f"{size:g}m.{step}" + (f"@{count}" if count > 1 else "")
                    figures[f"{key}.seconds"] = seconds
                    for kind, mib in vars(peaks).items():
                        figures[f"{key}.peak_{kind}_mib"] = mib
    figures |= growth(figures, sizes, workers)
    aims = {key: ("<=", 1.15 if key.endswith("cost") else 1.1) for key in figures if ".growth_of_" in key}
    harness.report("scale_data", figures, aims, options.json)


def growth(
    figures: dict[str, harness.Figure], sizes: list[float], workers: list[int]
) -> dict[str, harness.Figure]:
    """Compare the two largest sizes: seconds a candidate of the steps that read all, and memory of all steps."""
    if len(sizes) < 2:
        return {}
    small, large = sizes[-2:]
    ratios: dict[str, harness.Figure] = {}
    for step in (f"{step}@{count}" if count > 1 else step for count in workers for step in STEPS):
        low, high = f"{small:g}m.{step}", f"{large:g}m.{step}"
        if step.partition("@")[0] in ("pack", "train"):
            seconds = float(figures[f"{high}.seconds"]) / float(figures[f"{low}.seconds"])
            ratios[f"{step}.growth_of_cost"] = seconds * small / large
        private = (float(figures[f"{key}.peak_private_mib"]) for key in (high, low))
        ratios[f"{step}.growth_of_memory"] = next(private) / next(private)
    return ratios


if __name__ == "__main__":
    main()
