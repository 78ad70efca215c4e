"""Time and peak memory of joining 10 million candidates of ten days with 5 million events, at once and day by day.

A process of its own joins all days at once, and one more after each day, as a scheduler would. Half of the events are
of a logged user and item, within three days after the request; the others are of no candidate.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import harness
from corank.features.log_schema import LEVELS

CANDIDATES, USERS, ITEMS, NUMBERS = 200, 100_000, 200_000, 8
DAYS = 10
BEGIN, DAY = 1_772_323_200_000_000, 86_400_000_000
"""Microseconds: of 2026-03-01, and of a day."""
COMMAND = ["log/*.parquet", "--out", "OUT", "--label", "later=orders/*.parquet:order", "--window", "3d"]


def write_day(folder: Path, day: int, requests: int, events: int) -> None:
    """Write a file of the log and one of events."""
    rng = np.random.default_rng(day)
    times = np.sort(rng.integers(0, DAY, requests)) + BEGIN + day * DAY
    users, items = rng.integers(0, USERS, requests), rng.integers(0, ITEMS, (requests, CANDIDATES))
    each = np.repeat(np.arange(requests), CANDIDATES)
    level = rng.choice(len(LEVELS), len(each), p=(0.6, 0.2, 0.1, 0.1))
    columns = {
        "request_id": pl.Series(each + day * requests).cast(pl.String),
        "user_id": users[each],
        "item_id": items.ravel(),
        "time": pl.Series(times[each]).cast(pl.Datetime("us", "UTC")),
        "level": pl.Series(LEVELS).gather(level),
    }
    numbers = {f"x{n}": rng.random(len(each), dtype=np.float32) for n in range(NUMBERS)}
    pl.DataFrame(columns | numbers).write_parquet(folder / "log" / f"{day}.parquet")
    row = rng.integers(0, len(each), events // 2)
    ours = users[each[row]], items.ravel()[row], times[each[row]] + rng.integers(0, 3 * DAY, len(row))
    more = len(row), rng.integers(0, DAY, len(row)) + BEGIN + day * DAY
    others = rng.integers(0, USERS, more[0]), rng.integers(0, ITEMS, more[0]), more[1]
    user, item, moment = (np.concatenate(pair) for pair in zip(ours, others, strict=True))
    order = rng.permutation(len(user))
    orders = pl.DataFrame({"user_id": user[order], "item_id": item[order]})
    at = pl.Series("time", moment[order]).cast(pl.Datetime("us", "UTC"))
    orders.with_columns(at, kind=pl.lit("order")).write_parquet(folder / "orders" / f"{day}.parquet")


def join(folder: Path, out: str) -> tuple[float, float]:
    """Join what is in a folder. Returns seconds, and the peak memory of all joins until now, MiB."""
    command = [sys.executable, "-m", "corank", "join", *(out if part == "OUT" else part for part in COMMAND)]
    began = time.perf_counter()
    # two cores, whatever the machine has
    environment = {"POLARS_MAX_THREADS": "2"} | os.environ
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--candidates", type=int, default=10_000_000)
    options = parser.parse_args()
    requests = max(options.candidates // DAYS // CANDIDATES, 1)
    events = requests * CANDIDATES // 2
    with tempfile.TemporaryDirectory() as name:
        whole, daily = Path(name, "whole"), Path(name, "daily")
        for table in ("log", "orders"):
            (whole / table).mkdir(parents=True)
            (daily / table).mkdir(parents=True)
        for day in range(DAYS):
            write_day(whole, day, requests, events)
        seconds, peak = join(whole, "out")
        each = []
        for day in range(DAYS):
            for table in ("log", "orders"):
                shutil.copy(whole / table / f"{day}.parquet", daily / table)
            each.append(join(daily, "out")[0])
        days = sorted(path.name for path in (whole / "out").glob("*.parquet"))
        differ = [n for n in days if (whole / "out" / n).read_bytes() != (daily / "out" / n).read_bytes()]
        rows = pl.scan_parquet(whole / "out" / "*.parquet").select(pl.len()).collect().item()
    figures = {
        "candidates": rows,
        "events": events * DAYS,
        "seconds": seconds,
        "peak_rss_mib": peak,
        "seconds_of_a_day": max(each),
        "days": len(days),
        "days_that_differ": len(differ),
    }
    aims = {"seconds": ("<=", 300.0), "peak_rss_mib": ("<=", 2048.0), "days_that_differ": ("==", 0.0)}
    harness.report("join", figures, aims, options.json)


if __name__ == "__main__":
    main()
