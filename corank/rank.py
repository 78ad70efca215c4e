"""The ranker: an MLP over every feature, its first layer split by side so that only the pair's part costs C.

Letters: R requests · I distinct items · C candidates · h first width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self, cast

import torch
from annotated_types import MinLen
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from corank.batch import Batch
from corank.layout import Layout
from corank.schema import PLACEMENTS, Placement, Schema
from corank.tower import ACTIVATIONS, NetworkSettings, StageSettings, Widths, activated, linear, pair_sum


class LayerSettings(NetworkSettings):
    hidden: Widths = [128, 128, 128]
    labels: Annotated[list[str], MinLen(1)] = ["click"]
    """A head each over the shared layers."""


class MlpSettings(LayerSettings, StageSettings):
    model: Literal["mlp"]
    value: str = "click"
    """The label whose calibrated probability orders the candidates."""

    @model_validator(mode="after")
    def _value_is_a_label(self) -> Self:
        if self.value not in self.labels:
            raise ValueError(
                f"value must be one of the stage's labels {self.labels}; received {self.value!r}"
            )
        return self

    def check(self, schema: Schema) -> None:
        """A ranker may see every feature."""


class Mlp(nn.Module):
    def __init__(self, settings: LayerSettings, layout: Layout) -> None:
        super().__init__()
        self.labels, self.activation, self.dropout = settings.labels, settings.activation, settings.dropout
        self.widths = [layout.width(p) for p in PLACEMENTS]
        widths = settings.hidden
        self.first = nn.Linear(sum(self.widths), widths[0])
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.heads = nn.Linear(widths[-1], len(settings.labels))

    def forward(self, inputs: dict[Placement, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Logits by label: {label: (C,)}."""
        logits = self.above(pair_sum(*self.sides(inputs), batch) + self.pairs(inputs, batch))
        return {label: z[: len(batch)] for label, z in logits.items()}

    def sides(self, inputs: dict[Placement, Tensor]) -> tuple[Tensor, Tensor]:
        """The first layer's sums over the query, bias included, and over the item: (R, h), (I, h)."""
        query, item, _ = self._split(inputs["query"])
        bias = self.first.bias.to(query.dtype)
        return functional.linear(inputs["query"], query, bias), functional.linear(inputs["item"], item)

    def pairs(self, inputs: dict[Placement, Tensor], batch: Batch) -> Tensor:
        """The first layer's sum over what belongs to the pair: (padded C, h)."""
        return functional.linear(inputs["cross"], self._split(inputs["cross"])[2])

    def _split(self, like: Tensor) -> tuple[Tensor, ...]:
        return torch.split(self.first.weight.to(like.dtype), self.widths, dim=1)

    def above(self, first: Tensor) -> dict[str, Tensor]:
        """Logits from the first layer's sums (C, h): {label: (C,)}."""
        if self.norm is not None:
            first = self.norm(first.float()).to(first.dtype)
        x = functional.dropout(ACTIVATIONS[self.activation](first), self.dropout, self.training)
        for layer in cast(Sequence[nn.Linear], self.hidden):
            x = functional.dropout(activated(x, layer, self.activation), self.dropout, self.training)
        logits = linear(x, self.heads).float()
        return dict(zip(self.labels, logits.unbind(1), strict=True))
