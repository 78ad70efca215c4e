"""Checkpoints of one process: they come back bit by bit, or are refused by name."""

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from corank.core.errors import CheckpointError
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


def files(path: Path) -> list[Path]:
    """The manifest, and the file of the tensors."""
    (shard,) = path.glob("*/shard-00000-of-00001.safetensors")
    return [path / "manifest.json", shard]


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy())


def json_of(raw: bytes | bytearray) -> Any:
    with suppress(ValueError):
        return json.loads(raw)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    return message


def test_what_is_saved_comes_back_bit_by_bit(path: Path) -> None:
    checkpoint = load(path)
    assert checkpoint.facts == CHECKPOINT.facts
    assert checkpoint.tensors.keys() == CHECKPOINT.tensors.keys()
    for name, tensor in CHECKPOINT.tensors.items():
        stored = checkpoint.tensors[name]
        assert (stored.dtype, stored.shape, bits(stored)) == (tensor.dtype, tensor.shape, bits(tensor))


def test_one_that_is_not_there(path: Path) -> None:
    assert refused(path / "absent").endswith("absent: no such checkpoint; train first")
    assert refused(files(path)[0]).endswith("no such checkpoint; train first")


@pytest.mark.parametrize("which", [0, 1])
def test_every_truncation_and_every_flipped_bit_is_refused_by_the_name_of_the_file(
    path: Path, which: int
) -> None:
    file = files(path)[which]
    whole = file.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.Random(position).randrange(8)
        for changed in (flipped, whole[:position]):
            file.write_bytes(changed)
            # another last digit of a number, or an escape in capitals, is the same JSON value
            if which or json_of(changed) != json_of(whole):
                assert refused(path).startswith(f"{file}: ")
    file.write_bytes(whole + b"\0")
    refused(path)
