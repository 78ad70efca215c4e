"""Cross layers: products of features of any degree, learnt.

Letters: C candidates · W width of all inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import pad

from corank.batches.batch import Batch
from corank.batches.build import padded
from corank.core.settings import Settings
from corank.models.din import gathered
from corank.models.layers import linear


class DcnSettings(Settings):
    """Cross layers beside the deep ones."""

    layers: PositiveInt = 2
    rank: PositiveInt | None = None
    """Width of a bottleneck in each layer's W × W matrix; none unless given."""


class Dcn(nn.Module):
    """x ← x₀ ∘ (U V x + b) + x, layer after layer, from x₀, all dense inputs of a candidate.

    Source: DCN V2, Wang et al., WWW 2021 (arXiv 2008.13535), in its parallel form.
    """

    def __init__(self, settings: DcnSettings, width: int) -> None:
        super().__init__()
        rank, layers = settings.rank or width, range(settings.layers)
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in layers if settings.rank)
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in layers)

    def forward(self, inputs: Mapping[Any, Tensor], batch: Batch) -> Tensor:
        """Dense inputs by placement → (padded C, W)."""
        query = gathered(inputs["query"], batch.request_of, batch.requests)
        item = gathered(inputs["item"], batch.item_of, batch.items)
        empty = padded(len(batch)) - len(batch)
        parts = [pad(query, (0, 0, 0, empty)), pad(item, (0, 0, 0, empty)), inputs["cross"]]
        return self.crossed(torch.cat(parts, 1))

    def crossed(self, first: Tensor) -> Tensor:
        """(C, W) → (C, W)"""
        x = first
        for n, up in enumerate(cast(Sequence[nn.Linear], self.up)):
            low = linear(x, cast(nn.Linear, self.down[n])) if len(self.down) else x
            x = first * linear(low, up) + x
        return x
