"""Cross layers: products of features of any degree, learnt.

Letters: C' candidates of a batch, rounded up · W width of all inputs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from corank.models.inputs.named_axes import AxisNames, name_axes
from corank.models.layers import linear
from corank.models.settings.dcn import DcnSettings
from corank.models.stage_io import StageInputs


class Dcn(nn.Module):
    """x ← x₀ ∘ (U V x + b) + x, layer after layer, from x₀, all dense inputs of a candidate.

    Source: DCN V2, Wang et al., WWW 2021 (arXiv 2008.13535), in its parallel form.
    """

    def __init__(self, settings: DcnSettings, inputs: AxisNames) -> None:
        """`inputs`: the names of the dense inputs."""
        super().__init__()
        width, layers = len(inputs), range(settings.layers)
        rank, low = settings.rank or width, None if settings.rank else inputs
        self.down = nn.ModuleList(
            name_axes(nn.Linear(width, rank, bias=False), weight=(None, inputs))
            for _ in layers
            if settings.rank
        )
        self.up = nn.ModuleList(
            name_axes(nn.Linear(rank, width), weight=(inputs, low), bias=(inputs,)) for _ in layers
        )

    def forward(self, x: StageInputs) -> Tensor:
        """The crossed inputs of every candidate: (C', W)."""
        parts = [x.pairs.spread_query(x.query), x.pairs.spread_item(x.item)]
        parts += [own for own in (x.snapshot, x.cross) if own.shape[1]]
        return self.cross(torch.cat(parts, 1))

    def cross(self, first: Tensor) -> Tensor:
        """(C', W) → (C', W)."""
        x = first
        for n, up in enumerate(cast(Sequence[nn.Linear], self.up)):
            low = linear(x, cast(nn.Linear, self.down[n])) if len(self.down) else x
            x = first * linear(low, up) + x
        return x
