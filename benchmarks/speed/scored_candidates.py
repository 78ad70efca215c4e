"""Speed of the joint step where the ranker scores fewer candidates, over that where it scores all of the batch.

`read`: the ranker scores what a loss reads of it. It learns clicks; the pre-ranker takes all candidates of the
shallowest of four levels as negatives, and the ranker teaches it on the other three. The arithmetic is the same,
without what nobody reads.

Both take turns, so that a machine that slows down slows both. Times are CPU seconds of the process, reading included.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.speed.train_throughput import STAGES, packed_log, stepper
from corank.batches.reader import Reader
from corank.batches.sampling import Population
from corank.data.packed.dataset import PackedDataset
from corank.features.log_schema import LEVELS
from corank.losses.base import FunnelSpec, Loss
from corank.losses.click import ClickLoss
from corank.losses.distill import DistillLoss
from corank.losses.total import TotalLoss
from corank.losses.unexposed import UnexposedLoss
from corank.training.device import keep_freed_memory

SIZES = {50: 512, 200: 128}
"""Candidates a request → requests a batch."""
LOG = 614_400
"""Candidates of the log."""
LOSSES: list[Loss] = [
    *(ClickLoss(kind="click", stage=stage.name) for stage in STAGES),
    UnexposedLoss.model_validate({"kind": "unexposed", "stage": "prerank", "from": LEVELS[:1]}),
    DistillLoss(kind="distill", teacher="rank", student="prerank", on=LEVELS[1:]),
]
READ: dict[str, Population] = {"rank": dict.fromkeys(range(1, len(LEVELS)))}
"""The candidates of which the losses read the ranker's logits."""


def measure_ratio(packed: PackedDataset, candidates: int, rounds: int, steps: int) -> float:
    """The CPU time of a step where the ranker scores all over that where it scores some: the median of the rounds."""
    funnel = FunnelSpec(
        LEVELS, ["click"], {s.name: s.labels for s in STAGES}, {s.name: s.keep for s in STAGES}
    )
    reader = Reader(packed, "train", SIZES[candidates], dict.fromkeys(range(len(LEVELS))))
    runs = [
        stepper(
            packed,
            reader,
            lambda model, batch, scored=scored: model.outputs(batch, model.stages, scored),  # type: ignore[misc]
            TotalLoss(LOSSES, funnel),
        )
        for scored in ({}, READ)
    ]
    for run in runs:
        _cpu_seconds(run, 3)
    seconds = np.array([[_cpu_seconds(run, steps) for run in runs] for _ in range(rounds)])
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def _cpu_seconds(run: Iterator[int], steps: int) -> float:
    began = time.process_time()
    for _ in range(steps):
        next(run)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps of each in a round")
    options = parser.parse_args()
    keep_freed_memory()
    figures: dict[str, harness.Figure] = {}
    for candidates in SIZES:
        with tempfile.TemporaryDirectory() as name:
            packed = packed_log(Path(name), LOG // candidates, candidates, LEVELS)
            figures[f"read@{candidates}"] = measure_ratio(packed, candidates, options.rounds, options.steps)
    aims = dict.fromkeys(figures, (">=", 1.0))
    harness.report("scored_candidates", figures, aims, options.json)


if __name__ == "__main__":
    main()
