"""Candidates a second of a training step, all in turns: corank's two stages, torch-rechub's two, FuxiCTR's DNN alone.

The log is that of `train_throughput`: 50 candidates a request, 12 ids of 16 numbers, 512 requests a batch. The others
train on the same rows, 25,600 a batch, with the same widths of layers, by Adam and by their own training steps:
in memory, where a batch is cut out of tensors, and by their own loaders, without worker processes. `corank` trains by
`precision: auto`, which `precision` names: bf16 where the processor multiplies in it; `corank_fp32` in fp32 anywhere.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.peers.environment import PeerProcess
from benchmarks.peers.export import export
from benchmarks.speed.train_throughput import CANDIDATES, DIM, PRERANK, RANK, packed_log, stepper, timed
from corank.batches.reader import Reader
from corank.training.device import device, precision

REQUESTS, BATCH = 12_288, 512
BF16, FP32 = "bf16", "fp32"
PARTS = {
    "rechub_dssm": {"hidden": PRERANK.query},
    "rechub_widedeep": {"hidden": RANK.hidden},
    "fuxictr_dnn": {"hidden": RANK.hidden},
}
"""Timed models of the other libraries."""
PAIR = ("rechub_dssm", "rechub_widedeep")
LOADERS = {"memory": "", "own": "_own_loader"}
"""Source of batches → suffix of the names of figures."""


def speeds(folder: Path, peers: PeerProcess, rounds: int, steps: int) -> dict[str, harness.Figure]:
    """Medians over rounds, each of some steps of every training; ratios are medians of those within a round."""
    packed = packed_log(folder, requests=REQUESTS)
    rows = export(packed, folder / "rows", flat=False)
    for name, widths in PARTS.items():
        for loader in LOADERS:
            settings = widths | {"dim": DIM, "std": 0.01, "lr": 0.001, "batch": BATCH * CANDIDATES}
            where = {"rows": str(rows.folder), "scratch": str(folder)}
            peers.ask("prepare", key=f"{name} {loader}", name=name, loader=loader, settings=settings, **where)
    ours = {
        name: stepper(packed, Reader(packed, "train", BATCH), lambda model, batch: model(batch), dtype=dtype)
        for name, dtype in ({"corank": "auto"} | ({"corank_fp32": "fp32"} if _auto() == BF16 else {})).items()
    }
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        times = {name: timed(lambda step=step: next(step), steps) for name, step in ours.items()}  # type: ignore[misc]
        for name in PARTS:
            for loader, suffix in LOADERS.items():
                several = steps if loader == "memory" else 1
                took, trained = peers.ask("time", key=f"{name} {loader}", steps=several)
                times[f"{name}{suffix}"] = took / trained * BATCH * CANDIDATES
        for suffix in LOADERS.values():
            times[f"rechub_pair{suffix}"] = sum(times.pop(f"{name}{suffix}") for name in PAIR)
        if number:  # the first warms up
            for name, took in times.items():
                seconds.setdefault(name, []).append(took)
    seconds.setdefault("corank_fp32", seconds["corank"])
    return _figures({name: np.array(values) for name, values in seconds.items()})


def _auto() -> str:
    """What `precision: auto` is here."""
    return {torch.bfloat16: BF16, torch.float32: FP32}[precision("auto", device())]


def _figures(seconds: dict[str, np.ndarray]) -> dict[str, harness.Figure]:
    figures: dict[str, harness.Figure] = {
        f"{name}.candidates_per_second": BATCH * CANDIDATES / float(np.median(values))
        for name, values in seconds.items()
    }
    for name in ("corank", "corank_fp32"):
        for other in ("rechub_pair", "fuxictr_dnn"):
            for suffix in LOADERS.values():
                ratio = float(np.median(seconds[f"{other}{suffix}"] / seconds[name]))
                figures[f"{name}.times_{other}{suffix}"] = ratio
    return figures | {"precision": _auto()}
