"""torch-rechub's WideDeep as a ranker and DSSM as a pre-ranker, trained by its own trainers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.matching import DSSM
from torch_rechub.models.ranking import WideDeep
from torch_rechub.trainers import CTRTrainer, MatchTrainer
from torch_rechub.utils.data import DataGenerator

from benchmarks.peers.foreign.batches import Batches, Pairs, tensors
from benchmarks.peers.foreign.rows import LABEL, PADDING, Rows

EPOCHS, CHECKS, PATIENCE = 10, 4, 4
"""At most so many epochs; validations an epoch; those without a gain that end a training."""
SCORED = 4096


def features(rows: Rows, sides: tuple[str, ...], dim: int, std: float) -> list[Any]:
    """The exported columns of some sides in torch-rechub's terms."""
    inputs: list[Any] = []
    shared = {column.table for column in rows.columns if column.kind == "list"}
    every = RandomNormal(0, std)
    for column in rows.columns:
        if column.side not in sides:
            continue
        if column.kind == "number":
            inputs.append(DenseFeature(column.name))
        elif column.kind == "id":
            padding = PADDING if column.name in shared else None
            inputs.append(
                SparseFeature(column.name, column.rows, dim, padding_idx=padding, initializer=every)
            )
        else:
            table = None if column.table == column.name else column.table
            inputs.append(
                SequenceFeature(
                    column.name, column.rows, dim, "mean", table, padding_idx=PADDING, initializer=every
                )
            )
    return inputs


def network(rows: Rows, model: str, settings: dict[str, Any]) -> nn.Module:
    """A model over the exported columns."""
    dim, std = settings["dim"], settings["std"]
    layers = {"dims": settings["hidden"], "dropout": settings.get("dropout", 0.0)}
    if model == "dssm":
        query, item = (features(rows, (side,), dim, std) for side in ("query", "item"))
        made: nn.Module = DSSM(query, item, dict(layers), dict(layers))
        return made
    every = features(rows, ("query", "item", "cross"), dim, std)
    wide: nn.Module = WideDeep(every, every, layers)
    return wide


def trainer(made: nn.Module, model: str, settings: dict[str, Any], scratch: Path) -> Any:
    """The library's trainer of a model."""
    kind = MatchTrainer if model == "dssm" else CTRTrainer
    optimiser = {"lr": settings["lr"], "weight_decay": settings.get("l2", 0.0)}
    return kind(
        made,
        optimizer_params=optimiser,
        n_epoch=EPOCHS * CHECKS,
        earlystop_patience=PATIENCE,
        model_path=str(scratch),
    )


def fit(rows: Rows, model: str, settings: dict[str, Any], seed: int, scratch: Path) -> dict[str, Any]:
    """Train once, and score validation and test: (N,) each."""
    parts = {name: tensors(rows.split(name)) for name in ("train", "valid", "test")}
    torch.manual_seed(seed)
    made = network(rows, model, settings)
    loop = trainer(made, model, settings, scratch)
    train = Pairs(Batches(parts["train"], settings["batch"], seed, CHECKS))
    loop.fit(train, Pairs(Batches(parts["valid"], SCORED)))
    made.load_state_dict(loop.early_stopper.best_weights)  # `fit` does so only if it stopped early
    return {
        name: np.array(loop.predict(made, Pairs(Batches(parts[name], SCORED)))) for name in ("valid", "test")
    }


class Timed:
    """Training steps of one model, for speed: in memory, or by the library's loader."""

    def __init__(self, rows: Rows, model: str, loader: str, settings: dict[str, Any], scratch: Path) -> None:
        torch.manual_seed(0)
        self.loop = trainer(network(rows, model, settings), model, settings, scratch)
        values = tensors(rows.split("train"))
        if loader == "own":
            label = values.pop(LABEL)
            few = {name: column[:1] for name, column in values.items()}
            self.batches, *_ = DataGenerator(values, label).generate_dataloader(
                few, label[:1], few, label[:1], batch_size=settings["batch"]
            )
        else:
            self.batches = Pairs(Batches(values, settings["batch"], 0))
        self.source = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.batches

    def run(self, steps: int) -> tuple[float, int]:
        """Seconds and rows of some steps."""
        rows = 0

        def some() -> Iterator[Any]:
            nonlocal rows
            for _ in range(steps):
                values, label = next(self.source)
                rows += len(label)
                yield values, label

        began = time.perf_counter()
        self.loop.train_one_epoch(some())
        return time.perf_counter() - began, rows
