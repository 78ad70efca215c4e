"""Whether the tensors of a checkpoint are the expected ones: names, shapes, types, finite numbers."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from corank.core.errors import CheckpointError
from corank.training.checkpoints.checkpoint import Checkpoint


def check_names(held: Checkpoint, expected: Iterable[str], path: Path) -> None:
    """Raise CheckpointError, which names the checkpoint's path, if a tensor is missing or unexpected."""
    expected, names = set(expected), set(held.names)
    if absent := expected - names:
        raise CheckpointError(f"{path}: {min(absent)} is missing; train again")
    if odd := names - expected:
        raise CheckpointError(f"{path}: {min(odd)} is none of this model's; train again")


def check_tensor(
    held: Checkpoint,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    path: Path,
    least: float = -math.inf,
) -> None:
    """Raise CheckpointError, which names path and tensor, unless it has shape and type, and its numbers are finite.

    Args:
        held: the checkpoint, which has the tensor.
        name: of the tensor.
        shape: that it must have.
        dtype: the type of its numbers.
        path: of the checkpoint.
        least: no number may be below it.
    """
    if held.shape(name) != shape:
        raise CheckpointError(
            f"{path}: {name}: expected the shape {shape}; found {held.shape(name)}; train again"
        )
    if held.dtype(name) != dtype:
        raise CheckpointError(f"{path}: {name}: expected {dtype}; found {held.dtype(name)}; train again")
    for numbers in held.numbers(name):
        low, high = map(float, torch.aminmax(numbers)) if numbers.numel() else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high) and low >= least):
            extreme = low if not math.isfinite(low) or low < least else high
            raise CheckpointError(f"{path}: {name}: holds {extreme}; train again")
