"""FuxiCTR's DNN and DCNv2, trained by its own loop.

Its release has no DNN and has DCNv2 for long sequences alone; both are put together here from its own embedding, layers
and base model, as its documentation lays them out. Embeddings begin at a standard deviation that a setting gives: its
default of .0001 is among the trials.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

from benchmarks.peers.foreign.batches import Batches, Values, tensors
from benchmarks.peers.foreign.rows import LABEL, PADDING, Rows

EPOCHS, CHECKS, PATIENCE = 10, 4, 3
"""At most so many epochs; validations an epoch; those without a gain that end a training."""
SCORED = 4096


def feature_map(rows: Rows, longest: dict[str, int], folder: Path) -> Any:
    """Describe the exported columns in FuxiCTR's terms; tables come before the lists that share them."""
    described = FeatureMap("rows", str(folder))
    shared = {column.table for column in rows.columns if column.kind == "list"}
    for column in sorted(rows.columns, key=lambda c: c.kind == "list"):
        spec: dict[str, Any] = {"source": "", "type": "numeric"}
        if column.kind != "number":
            spec |= {"type": "categorical", "vocab_size": column.rows}
            if column.name in shared:
                spec["padding_idx"] = PADDING
        if column.kind == "list":
            spec |= {
                "type": "sequence",
                "max_len": longest[column.name],
                "feature_encoder": "layers.MaskedAveragePooling()",
                "padding_idx": PADDING,
            }
            if column.table != column.name:
                spec["share_embedding"] = column.table
        described.features[column.name] = spec
    described.labels = [LABEL]
    described.num_fields = described.get_num_fields()
    described.set_column_index()
    return described


class FuxiNetwork(BaseModel):  # type: ignore[misc]
    """An MLP over all embeddings and, with cross layers, a parallel cross network; their outputs are joined."""

    def __init__(self, described: Any, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(
            described,
            model_id="network",
            metrics=["AUC"],
            verbose=0,
            model_root=str(folder),
            embedding_regularizer=settings.get("l2") or None,
            early_stop_patience=PATIENCE,
            reduce_lr_on_plateau=settings.get("decay", False),
        )
        dim, hidden, crosses = settings["dim"], settings["hidden"], settings.get("crosses", 0)
        initial = f"partial(nn.init.normal_, std={settings['std']})"
        self.embedding_layer = FeatureEmbedding(described, dim, embedding_initializer=initial)
        width = described.num_fields * dim
        options = {"dropout_rates": settings.get("dropout", 0.0), "batch_norm": settings.get("norm", False)}
        self.mlp = MLP_Block(width, hidden, output_dim=None if crosses else 1, **options)
        self.cross = CrossNetV2(width, crosses) if crosses else None
        self.last = nn.Linear(width + hidden[-1], 1) if crosses else None
        self.compile("adam", "binary_crossentropy", settings["lr"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Values) -> dict[str, Tensor]:
        """Probabilities: (B, 1)."""
        embedded = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        output = self.mlp(embedded)
        if self.cross is not None and self.last is not None:
            output = self.last(torch.cat((self.cross(embedded), output), dim=-1))
        return {"y_pred": self.output_activation(output)}


def fit(rows: Rows, model: str, settings: dict[str, Any], seed: int, scratch: Path) -> dict[str, Any]:
    """Train once, and score validation and test: (N,) each."""
    parts = {name: tensors(rows.split(name)) for name in ("train", "valid", "test")}
    longest = {name: column.shape[1] for name, column in parts["train"].items() if column.ndim == 2}
    seed_everything(seed)
    network = FuxiNetwork(feature_map(rows, longest, scratch), _folder(scratch), settings)
    train = Batches(parts["train"], settings["batch"], seed)
    network._eval_steps = -(-len(train) // CHECKS)
    network.fit(train, EPOCHS, Batches(parts["valid"], SCORED))
    return {name: network.predict(Batches(parts[name], SCORED)) for name in ("valid", "test")}


def _folder(scratch: Path) -> Path:
    (scratch / "rows").mkdir(parents=True, exist_ok=True)
    return scratch


class Timed:
    """Training steps of the DNN, for speed: in memory, or by the library's loader of npz files."""

    def __init__(self, rows: Rows, model: str, loader: str, settings: dict[str, Any], scratch: Path) -> None:
        seed_everything(0)
        described = feature_map(rows, {}, scratch)
        self.network = FuxiNetwork(described, _folder(scratch), settings)
        self.network._max_gradient_norm = 10.0  # what `fit` sets
        self.network.train()
        self.batches: Any
        if loader == "own":
            self.batches, _ = RankDataLoader(
                described,
                "train",
                str(rows.folder / "train.npz"),
                batch_size=settings["batch"],
                num_workers=0,
            )
        else:
            self.batches = Batches(tensors(rows.split("train")), settings["batch"], 0)
        self.steps = self._steps()

    def _steps(self) -> Iterator[int]:
        while True:
            for batch in self.batches:
                self.network.train_step(batch).item()
                yield len(batch[LABEL])

    def run(self, steps: int) -> tuple[float, int]:
        """Seconds and rows of some steps."""
        began = time.perf_counter()
        trained = sum(next(self.steps) for _ in range(steps))
        return time.perf_counter() - began, int(np.int64(trained))
