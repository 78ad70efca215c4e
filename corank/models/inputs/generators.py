"""Generated vectors: what a tower imagines the other side's vector to be, read with its own features.

Source: the dual generators of HIT, Yang et al. 2025 (arXiv 2505.19849), those of targets, after the dual augmented
two-tower, Yu et al., DLP-KDD 2021.

Letters: N rows of one side · d width of the vectors, less biases.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Mimics:
    """What the towers of a stage imagine of each other, and what they are; each computed when a loss asks."""

    of_item: Callable[[], Tensor]
    """The vectors of clicked items as queries imagine them: (R, d), of length 1."""
    of_query: Callable[[], Tensor]
    """The vectors of queries that click as items imagine them: (I', d), of length 1."""
    query: Tensor
    """Without gradient: (R, d)."""
    item: Tensor
    """Without gradient: (I', d)."""


class GeneratingTower(nn.Module):
    """A tower that reads its features and what its generator makes of them, which the tower does not train."""

    def __init__(self, columns: nn.Module, generator: nn.Module, tower: nn.Module) -> None:
        """`columns` chooses what both read, `generator` gives d numbers, and `tower` reads these, too."""
        super().__init__()
        self.columns, self.generator, self.tower = columns, generator, tower

    def mimic(self, x: Tensor) -> Tensor:
        """The other side's vector as this one imagines it: (N, width) → (N, d), of length 1."""
        return self._imagine(self.columns(x))

    def _imagine(self, x: Tensor) -> Tensor:
        return normalize(self.generator(x).float(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → what the tower gives."""
        x = self.columns(x)
        output: Tensor = self.tower(torch.cat((x, self._imagine(x).detach().to(x.dtype)), dim=1))
        return output
