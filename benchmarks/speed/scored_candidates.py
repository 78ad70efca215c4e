"""Speed of the joint step where the ranker scores fewer candidates, over that where it scores all of the batch.

`read`: the ranker scores what a loss reads of it. It learns clicks; the pre-ranker takes all candidates of the
shallowest of four levels as negatives, and the ranker teaches it on the other three. The arithmetic is the same,
without what nobody reads.

`easy`: the ranker teaches on all levels, and of those that were not exposed it scores a quarter, the hardest by the
pre-ranker, and one in ten of the rest (`train.skip_easy`).

`easy_members`: the same of a ranker with eight members, whose layers cost eight times as much.

All take turns, so that a machine that slows down slows all. Times are CPU seconds of the process, reading included.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.speed.train_throughput import PRERANK, RANK, STAGES, packed_log, stepper
from corank.batches.reader import Reader
from corank.data.dataset import PackedDataset
from corank.features.log_schema import LEVELS
from corank.losses.base import FunnelSpec, Loss
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.distill import DistillLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.losses.total import TotalLoss
from corank.models.scoring import SCORE_ALL, EasyCandidates, Scoring
from corank.models.settings.skip_easy import SkipEasy
from corank.training.device import keep_freed_memory

SIZES = {50: 512, 200: 128}
"""Candidates a request → requests a batch."""
LOG = 614_400
"""Candidates of the log."""
DEEPEST = len(LEVELS) - 1
CLICKS: list[Loss] = [ClickLoss(kind="click", stage=stage.name) for stage in STAGES]
EASY = SkipEasy(by="prerank", on=LEVELS[:-1])
CUT = UnexposedLoss.model_validate({"kind": "unexposed", "stage": "prerank", "from": LEVELS[:1]})
TAUGHT = DistillLoss(kind="distill", teacher="rank", student="prerank", on=list(LEVELS))
SKIP = Scoring({}, EasyCandidates(EASY, "click", frozenset({"rank"}), dict.fromkeys(range(DEEPEST))))
ARMS: dict[str, tuple[list[Loss], Scoring, int | None]] = {
    "read": (
        [CUT, DistillLoss(kind="distill", teacher="rank", student="prerank", on=LEVELS[1:])],
        Scoring({"rank": dict.fromkeys(range(1, DEEPEST + 1))}),
        None,
    ),
    "easy": ([TAUGHT], SKIP, None),
    "easy_members": ([TAUGHT], SKIP, 8),
}
"""The losses beside clicks, what the networks score, and the ranker's members."""


def ratios(packed: PackedDataset, candidates: int, rounds: int, steps: int) -> dict[str, float]:
    """The CPU time of a step where the ranker scores all over that of each arm, the median of interleaved rounds."""
    funnel = FunnelSpec(
        LEVELS, ["click"], {s.name: s.labels for s in STAGES}, {s.name: s.keep for s in STAGES}
    )
    reader = Reader(packed, "train", SIZES[candidates], dict.fromkeys(range(len(LEVELS))))
    runs = {}
    for name, (losses, scoring, members) in ARMS.items():
        for some in (SCORE_ALL, scoring):
            runs[name, some is scoring] = stepper(
                packed,
                reader,
                lambda model, batch, some=some: model.outputs(batch, model.stages, some),  # type: ignore[misc]
                TotalLoss([*CLICKS, *losses], funnel),
                stages=[PRERANK, RANK.model_copy(update={"members": members})],
            )
    for run in runs.values():
        _cpu_seconds(run, 3)
    found = np.array([[_cpu_seconds(run, steps) for run in runs.values()] for _ in range(rounds)])
    share = np.median(found[:, 0::2] / found[:, 1::2], axis=0)
    return {f"{name}@{candidates}": float(ratio) for name, ratio in zip(ARMS, share, strict=True)}


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
            figures |= ratios(packed, candidates, options.rounds, options.steps)
    least = {"read": 1.0, "easy": 1.1, "easy_members": 1.4}
    aims = {f"{name}@{n}": (">=", ratio) for n in SIZES for name, ratio in least.items()}
    harness.report("scored_candidates", figures, aims, options.json)


if __name__ == "__main__":
    main()
