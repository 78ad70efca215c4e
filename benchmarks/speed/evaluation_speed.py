"""CPU seconds of `corank evaluate`, `explain` and `report` on about 130,000 exposed test rows, as whole processes.

The world is simulated, of 50 candidates a request, of which 10 are exposed; of the others one in eight is kept in the
log, so that most rows are exposed, as in public logs. `reference` is what the resamples of
the same evaluation take one by one, as before Poisson counts of all users at once, in the same run. Aims are a
quarter of what the commands took on a log of that size: 35, 36 and 31 s.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

import corank
from benchmarks import harness
from corank.analysis.run_evaluation import predict_run
from corank.datasets.feed.simulate import simulate_world
from corank.metrics.intervals import draw_counts
from corank.metrics.measure import Measure
from corank.training.run import Run

AIMS = {"evaluate": 8.75, "explain": 9.0, "report": 7.75}
NARROW = {"[512, 128, 64, 32]": "[64, 32]", "[128, 128, 128]": "[64, 32]", "epochs: 2": "epochs: 1"}


def small_run(folder: Path, requests: int) -> Path:
    """The folder of a small model, trained on a simulated world whose test split has half of the requests."""
    simulate_world(folder / "world", requests=requests, candidates=50, users=requests // 5)
    for part in (folder / "world" / "log").glob("*.parquet"):
        rows = pl.read_parquet(part)
        rows.filter((pl.col("level") == "exposed") | (pl.int_range(pl.len()) % 8 == 0)).write_parquet(part)
    config = folder / "world" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    for wide, narrow in NARROW.items():
        text = text.replace(wide, narrow)
    config.write_text(text, encoding="utf-8")
    overrides = ["data.split={valid: 2026-03-05, test: 2026-03-06}", "data.truth=null"]
    corank.train(config, folder=folder / "run", overrides=overrides)
    return folder / "run"


def cpu_seconds(command: str, run: Path, *options: str) -> float:
    """CPU seconds, of user and system, of a command as a process of one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    arguments = [sys.executable, "-m", "corank", command, str(run), *options]
    subprocess.run(arguments, check=True, env=os.environ | one_thread, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_by_one(measure: Measure) -> None:
    """Compute a metric in each resample of its users."""
    users, code = np.unique(measure.user, return_inverse=True)
    for counts in draw_counts(users).T.astype(np.float64):
        measure.value(counts[code])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=23_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        run = small_run(Path(temporary), arguments.requests)
        opened = Run.open(run)
        predicted = predict_run(opened, "test")
        figures["exposed_rows"] = int(predicted.predictions.exposed.sum())
        figures["rows"] = len(predicted.predictions.exposed)
        for command in AIMS:
            options = ["--split", "test"] if command == "explain" else []
            figures[command] = cpu_seconds(command, run, *options)
            say(f"{command}: {figures[command]:.2f} CPU s")
        known = [
            one.measure for one in predicted.figures if one.measure is not None and one.value is not None
        ]
        began = time.process_time()
        for measure in known:
            one_by_one(measure)
        figures["reference.resamples"] = time.process_time() - began
    aims = {command: ("<=", seconds) for command, seconds in AIMS.items()}
    harness.report("evaluation_speed", figures, aims, arguments.json)


if __name__ == "__main__":
    main()
