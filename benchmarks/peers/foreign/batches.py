"""Batches in memory for networks: columns as tensors, cut along a permutation."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peers.foreign.rows import FLAT, LABEL, USER

Values = dict[str, Tensor]


def tensors(arrays: Mapping[str, NDArray[Any]]) -> Values:
    """The arrays of a split that networks read, the label included."""
    return {name: torch.from_numpy(array) for name, array in arrays.items() if name not in (FLAT, USER)}


class Batches:
    """Each iteration yields the batches of one epoch, shuffled anew, or of a part of it; in order without a seed."""

    def __init__(self, values: Values, size: int, seed: int | None = None, parts: int = 1) -> None:
        """`parts`: iterations that make one epoch, so that a trainer that validates after each does so more often."""
        self.values, self.size, self.parts = values, size, parts
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.rows = len(values[LABEL])
        self.order, self.part = torch.arange(self.rows), 0

    def __len__(self) -> int:
        return -(-self.rows // (self.size * self.parts))

    def __iter__(self) -> Iterator[Values]:
        if self.generator is not None and self.part == 0:
            self.order = torch.randperm(self.rows, generator=self.generator)
        chunks = np.array_split(self.order.numpy(), self.parts)
        chunk = torch.from_numpy(chunks[self.part])
        self.part = (self.part + 1) % self.parts
        for some in chunk.split(self.size):
            yield {name: column[some] for name, column in self.values.items()}


class Pairs:
    """The same batches as pairs of features and label."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Values, Tensor]]:
        for values in self.batches:
            yield {name: column for name, column in values.items() if name != LABEL}, values[LABEL]
