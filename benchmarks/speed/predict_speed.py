"""Requests of one candidate that `corank predict` scores a CPU second: in batches, one by one, by an earlier commit.

Each exposed row of a simulated log is a request. `run` is a run with hourly priors, so that each request has items as
they were in its hour; `served` is its bundle alone, `--as-served`. The arms take turns in every round, each in a
process of its own on one thread, and score the same rows; a figure is the median over rounds. Opening the bundle
counts. Ratios compare batches with the earlier commit, or with one by one if none is named.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

import corank
from benchmarks import harness
from benchmarks.checkout import ROOT, Checkout, base_checkout
from benchmarks.speed.paired import in_turn, repeating
from corank.datasets.feed.simulate import simulate_world

AIMS = {"run_ratio": (">=", 20.0)}
REQUESTS, FEW = 16_000, 1_000
PRIORS = [
    f"features.{who}_{what}={{kind: prior, by: [{who}_id], every: 1h{of}}}"
    for who in ("item", "user")
    for what, of in (("clicks", ", label: click, smoothing: auto"), ("shown", ""))
]
PROGRAM = """
import sys, tempfile, time
from pathlib import Path
from corank.engine.base import open_engine
from corank.funnel import predict
from corank.training.run import Run

bundle, run, log, users, kind, most = sys.argv[1:]
if most != "-":
    predict.REQUESTS = int(most)
packed = Run.open(Path(run)).packed if kind == "run" else None
for line in sys.stdin:
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        predict.predict_log(
            Path(bundle), log, users, out, open_engine(), packed=packed, as_served=packed is None
        )
    print(time.process_time() - began, flush=True)
"""


def make_logs(folder: Path) -> dict[int, Path]:
    """Train and export a model with hourly priors. Returns logs of requests of one candidate, by their number."""
    world = folder / "world"
    simulate_world(world, requests=4_000, candidates=20, users=500, items=2_000)
    run = corank.train(world / "config.yaml", ["train.epochs=1", *PRIORS], folder=folder / "run").run
    corank.export(run.folder, folder / "bundle")
    rows = pl.read_parquet(world / "log/*.parquet").filter(pl.col("level") == "exposed").head(REQUESTS)
    rows = rows.with_columns(pl.int_range(pl.len()).cast(rows["request_id"].dtype).alias("request_id"))
    logs = {count: folder / f"log-{count}.parquet" for count in (len(rows), FEW)}
    for count, path in logs.items():
        rows.head(count).write_parquet(path)
    return logs


def measure(
    folder: Path, logs: Mapping[int, Path], new: Checkout, base: Checkout | None, rounds: int
) -> dict[str, harness.Figure]:
    """Requests a second of every arm, and the ratio of batches to the reference."""
    most, few = max(logs), min(logs)
    arms = {"together": (new, "-", most), "alone": (new, "1", few)}
    if base is not None:
        arms["before"] = (base, "-", few)
    found: dict[str, harness.Figure] = {}
    for kind in ("run", "served"):
        places = folder / "bundle", folder / "run"
        users = folder / "world" / "users.parquet"
        times = in_turn(
            [
                repeating(code, PROGRAM, *places, logs[count], users, Path(kind), Path(requests))
                for code, requests, count in arms.values()
            ],
            rounds,
        )
        rates = np.array([count for _, _, count in arms.values()]) / np.array(times)
        for n, arm in enumerate(arms):
            found[f"{kind}_{arm}_requests_per_second"] = float(np.median(rates[:, n]))
        found[f"{kind}_ratio"] = float(np.median(rates[:, 0] / rates[:, -1]))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench predict_speed", description=__doc__)
    parser.add_argument("base", nargs="?", help="an earlier commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        logs = make_logs(folder)
        if arguments.base is None:
            figures = measure(folder, logs, Checkout(ROOT), None, arguments.rounds)
        else:
            with base_checkout(folder, arguments.base) as (base, new):
                figures = measure(folder, logs, new, base, arguments.rounds)
    harness.report("predict_speed", figures, AIMS, arguments.json)


if __name__ == "__main__":
    main()
