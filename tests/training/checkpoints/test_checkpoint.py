"""Checkpoints of one process: they come back bit by bit, or are refused by name."""

from pathlib import Path

import pytest
import torch

from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_files import load, save

CHECKPOINT = Checkpoint(
    {
        "a.weight": torch.tensor([[1.0, -0.0], [float("nan"), float("inf")]]),
        "a.steps": torch.tensor([3, 2**40]),
        "b.half": torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
        "b.none": torch.zeros(0, 4),
        "b.flags": torch.tensor([True, False]),
        "b.bytes": torch.tensor([[0, 255]], dtype=torch.uint8),
        "step": torch.tensor(7.0),
    },
    {"epoch": 1, "figures": [{"auc": 0.1 + 0.2, "gauc": None, "logloss": float("inf")}], "name": "größe"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "latest"
    save(folder, CHECKPOINT)
    return folder


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy())


def test_what_is_saved_comes_back_bit_by_bit(path: Path) -> None:
    checkpoint = load(path)
    assert checkpoint.facts == CHECKPOINT.facts
    assert checkpoint.tensors.keys() == CHECKPOINT.tensors.keys()
    for name, tensor in CHECKPOINT.tensors.items():
        stored = checkpoint.tensors[name]
        assert (stored.dtype, stored.shape, bits(stored)) == (tensor.dtype, tensor.shape, bits(tensor))
