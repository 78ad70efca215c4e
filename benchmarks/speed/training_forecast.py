"""What `corank check` says a training will take, beside what it takes: seconds and memory, of worlds of several sizes.

Each training runs in a process of its own, from packed data. With one thread, processor time counts, of the measured
machine as of the training: other processes change it less. `CORANK_KUAIRAND` names an unpacked KuaiRand-Pure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import corank
from benchmarks import harness
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.kuairand import import_kuairand
from corank.engine.base import peak_memory
from corank.training.callbacks import TrainingEnd, TrainingStart
from corank.training.checks.forecast import forecast_training, measure_machine
from corank_lab.datasets.news import News

AUTO = ("train.epochs=auto", "train.requests=auto", "train.early_stop={metric: rank.click.auc, patience: 20}")
NARROW = ("stages.0.query=[32, 16]", "stages.0.item=[32, 16]", "stages.1.hidden=[32, 16]")
CLICKS = "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"
ARMS: dict[str, tuple[str, Sequence[str]]] = {
    "small": ("small", AUTO),
    "feed": ("feed", ("train.epochs=2",)),
    "feed.narrow": ("feed", (*NARROW, "train.requests=64")),
    "feed.din": ("feed", ("train.requests=64", "stages.1.din={history: history}")),
    "lists": ("lists", AUTO),
    "lists.clicks": ("lists", ("train.requests=256", "train.average=0.99", CLICKS)),
    "news": ("news", ("train.epochs=2",)),
    "kuairand": ("kuairand", ()),
    "kuairand.batches": ("kuairand", ("train.requests=16",)),
}
"""Arm → the world that it trains on, and changes of its config."""


class Clock(corank.Callback):
    """Seconds of a training."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0

    def on_start(self, event: TrainingStart) -> None:
        """Begin."""
        self.began = clock()

    def on_end(self, event: TrainingEnd) -> None:
        """End."""
        self.seconds = clock() - self.began


def clock() -> float:
    """Processor time of this process with one thread, else wall time."""
    return time.process_time() if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter()


def make_worlds(folder: Path) -> dict[str, Path]:
    """The configs by world."""
    simulate_world(folder / "small", requests=400, candidates=30, users=100, items=300)
    simulate_world(folder / "feed", requests=3000, candidates=200)
    simulate_world(folder / "lists", requests=15_000, candidates=60)
    News(requests=8000).simulate(folder / "news")
    names = ["small", "feed", "lists", "news"]
    if source := os.environ.get("CORANK_KUAIRAND"):
        import_kuairand(Path(source), folder / "kuairand")
        names.append("kuairand")
    return {name: folder / name / "config.yaml" for name in names}


def train_one(config: Path, changes: Sequence[str]) -> None:
    """Train packed data in this process, and print seconds and the peak of memory."""
    watched = Clock()
    with tempfile.TemporaryDirectory() as folder:
        corank.train(config, changes, [watched], folder=Path(folder) / "run")
    sys.stdout.write(json.dumps({"seconds": watched.seconds, "memory": peak_memory()}) + "\n")


def measure(config: Path, changes: Sequence[str]) -> dict[str, float]:
    """Figures of one arm."""
    report = corank.check(config, changes)
    predicted = forecast_training(report.profile, None, measure_machine(clock))
    corank.pack(config, changes)
    command = [sys.executable, "-m", "benchmarks.speed.training_forecast", "--train", str(config), *changes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    real = json.loads(done.stdout.splitlines()[-1])
    packed = corank.pack(config, changes).packed.manifest.size
    memory = sum(predicted.memory.values()) + predicted.packed
    return {
        "steps": predicted.epochs * predicted.steps,
        "seconds.predicted": predicted.seconds,
        "seconds": real["seconds"],
        "seconds.ratio": predicted.seconds / real["seconds"],
        "memory_mb.predicted": memory / 1e6,
        "memory_mb": real["memory"] / 1e6,
        "memory.ratio": memory / real["memory"],
        "packed.ratio": predicted.packed / packed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_one(Path(arguments.train[0]), arguments.train[1:])
        return
    figures: dict[str, harness.Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        worlds = make_worlds(Path(folder))
        for name, (world, changes) in ARMS.items():
            if world in worlds:
                values = measure(worlds[world], changes)
                figures |= {f"{name}.{key}": value for key, value in values.items()}
    ratios = [float(value) for key, value in figures.items() if key.endswith("seconds.ratio")]
    figures |= {"lowest_ratio": min(ratios), "highest_ratio": max(ratios)}
    aims = {"lowest_ratio": (">=", 0.5), "highest_ratio": ("<=", 2.0)}
    harness.report("training_forecast", figures, aims, arguments.json)


if __name__ == "__main__":
    main()
