"""Share of the plain joint step's throughput that is left with each loss, at 50 and 500 candidates a request.

The plain step learns clicks in both stages, reading included. Every other step adds one loss and reads the same
candidates. All take turns, so that a machine that slows down slows all. Then each loss is timed by itself (`_ms`). For
`lcron` the peak memory above that of the plain step is measured, too, in separate processes. With one thread, processor
time counts.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import harness
from benchmarks.speed.train_throughput import STAGES, packed_log, step_clock, stepper, timed
from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset
from corank.features.input_layout import Layout
from corank.features.log_schema import LEVELS
from corank.losses.base import FunnelSpec, Loss
from corank.losses.cascade import CascadeLoss
from corank.losses.click import ClickLoss
from corank.losses.distill import DistillLoss
from corank.losses.in_batch import InBatchLoss
from corank.losses.info_nce import InfoNceLoss
from corank.losses.levels import LevelsLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.stage_io import StageOutput
from corank.training.device import device, keep_freed_memory
from corank_lab.losses.arf import ArfLoss
from corank_lab.losses.icc import IccLoss
from corank_lab.losses.levels_bce import LevelsBceLoss
from corank_lab.losses.rankflow import RankFlowLoss

SIZES = {50: 512, 500: 128}
"""Candidates a request → requests a batch."""
LOG = 1_228_800
"""Candidates of the log."""
PLAIN = [ClickLoss(kind="click", stage=stage.name) for stage in STAGES]
TOP = [LEVELS[-1]]
ADDED: dict[str, Loss] = {
    "in_batch": InBatchLoss(kind="in_batch", stage="prerank"),
    "listwise": DistillLoss(
        kind="distill", teacher="rank", student="prerank", form="listwise", on=list(LEVELS)
    ),
    "pairwise": DistillLoss(
        kind="distill", teacher="rank", student="prerank", form="pairwise", on=list(LEVELS)
    ),
    "ranknet": LevelsLoss(kind="levels", stage="prerank", form="ranknet", per_request=10),
    "lambda": LevelsLoss(kind="levels", stage="prerank", form="lambda", per_request=10),
    "softmax": LevelsLoss(kind="levels", stage="prerank", form="softmax"),
    "bce": LevelsBceLoss(stage="prerank"),
    "dftopk": CascadeLoss(kind="cascade", form="dftopk", positive=TOP),
    "lcron": CascadeLoss(kind="cascade", form="lcron", positive=TOP),
    "arf_v2": CascadeLoss(kind="cascade", form="arf_v2", positive=TOP),
    "arf": ArfLoss(positive=TOP),
    "icc": IccLoss(positive=TOP),
    "rankflow": RankFlowLoss(positive=TOP),
    "info_nce": InfoNceLoss(kind="info_nce", stage="prerank"),
}
LINEAR = ("listwise", "pairwise", "ranknet", "lambda", "softmax", "bce", "dftopk", "rankflow", "info_nce")
AIMS = {f"{name}@{n}": (">=", 0.93) for name in LINEAR for n in SIZES}
AIMS |= {f"{name}@50": (">=", 0.85) for name in ("lcron", "arf_v2")}
AIMS |= {"lcron@500": (">=", 0.6), "lcron_extra_mib@500": ("<=", 100.0)}


def total(names: Sequence[str]) -> TotalLoss:
    scope = FunnelSpec(
        LEVELS,
        ["click"],
        {stage.name: stage.labels for stage in STAGES},
        {stage.name: stage.keep for stage in STAGES},
        with_vectors=["prerank"],
    )
    loss = TotalLoss([*PLAIN, *(ADDED[name] for name in names)], scope)
    loss.check()
    return loss


def reader(packed: PackedDataset, candidates: int) -> Reader:
    return Reader(packed, "train", SIZES[candidates], dict.fromkeys(range(len(LEVELS))))


def shares(
    packed: PackedDataset, candidates: int, names: Sequence[str], rounds: int, steps: int
) -> dict[str, float]:
    """The plain step's time over that of each, the median of interleaved rounds."""
    arms = {
        name: stepper(packed, reader(packed, candidates), lambda model, batch: model(batch), total(added))
        for name, added in {"plain": [], **{name: [name] for name in names}}.items()
    }
    for arm in arms.values():
        timed(partial(next, arm), 2)
    clock = step_clock()
    seconds = np.array(
        [[timed(partial(next, arm), steps, clock) for arm in arms.values()] for _ in range(rounds)]
    )
    plain = float(SIZES[candidates] * candidates / np.median(seconds[:, 0]))
    share = np.median(seconds[:, :1] / seconds, axis=0)
    return {f"plain_candidates_per_second@{candidates}": plain} | {
        f"{name}@{candidates}": float(value) for name, value in zip(names, share[1:], strict=True)
    }


def alone(packed: PackedDataset, candidates: int, names: Sequence[str], times: int) -> dict[str, float]:
    """Milliseconds of each loss by itself, forward and backward to the logits, in the median.

    `in_batch` is left out: its gradient goes to vectors.
    """
    batch = next(reader(packed, candidates).read_shuffled(0)).to(device())
    model = JointModel(STAGES, Layout(packed.schema, packed.encoders.sizes)).to(device())
    with torch.no_grad():
        by_stage = model(batch)
    outputs = {stage: _with_leaves(output) for stage, output in by_stage.items()}
    figures = {}
    for name in names:
        if name != "in_batch":
            loss = TotalLoss([ADDED[name]], total([]).funnel)
            run = partial(_differentiate, loss, outputs, batch)
            timed(run, 2)
            seconds = [timed(run, 1, step_clock()) for _ in range(times)]
            figures[f"{name}_ms@{candidates}"] = 1000 * median(seconds)
    return figures


def _with_leaves(output: StageOutput) -> StageOutput:
    return replace(output, logits={label: z.requires_grad_() for label, z in output.logits.items()})


def _differentiate(loss: TotalLoss, outputs: Mapping[str, StageOutput], batch: Batch) -> None:
    loss(outputs, batch, 0)[0].backward()


def peak(folder: Path, candidates: int, names: Sequence[str]) -> float:
    """MiB resident at the most in a process that trains some steps."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.loss_speed",
        "--peak",
        str(folder),
        str(candidates),
        *names,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def train_some(folder: Path, candidates: int, names: Sequence[str], steps: int = 6) -> float:
    packed = PackedDataset.open(folder)
    arm = stepper(packed, reader(packed, candidates), lambda model, batch: model(batch), total(names))
    for _ in range(steps):
        next(arm)
    # not getrusage, whose peak is also that of the process which started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps of each in a round")
    parser.add_argument("--losses", nargs="+", choices=list(ADDED), default=list(ADDED))
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    if options.peak:
        folder, candidates, *names = options.peak
        sys.stdout.write(str(train_some(Path(folder), int(candidates), names)))
        return
    figures: dict[str, float] = {}
    for candidates in SIZES:
        with tempfile.TemporaryDirectory() as name:
            packed = packed_log(Path(name), LOG // candidates, candidates, LEVELS)
            figures |= shares(packed, candidates, options.losses, options.rounds, options.steps)
            figures |= alone(packed, candidates, options.losses, options.rounds * options.steps)
            if "lcron" in options.losses:
                folder = Path(name) / "packed"
                extra = [peak(folder, candidates, ["lcron"]) - peak(folder, candidates, []) for _ in range(3)]
                figures[f"lcron_extra_mib@{candidates}"] = median(extra)
    harness.report("loss_speed", figures, {k: a for k, a in AIMS.items() if k in figures}, options.json)


if __name__ == "__main__":
    main()
