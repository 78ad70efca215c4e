"""The pre-ranker: a query tower and an item tower that meet in a dot product.

Letters: R requests · I distinct items · C candidates.
"""

import math
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from corank.batch import Batch
from corank.layout import Layout
from corank.schema import Placement, Schema
from corank.tower import StageSettings, Tower, Widths, pair_dot


class TowersSettings(StageSettings):
    model: Literal["towers"]
    query: Widths = [512, 128, 64, 32]
    item: Widths = [512, 128, 64, 32]
    query_features: list[str] | None = None
    """Features of the query tower; all of the query side unless given."""
    item_features: list[str] | None = None
    """Features of the item tower; all of the item side unless given."""
    label: str = "click"

    @property
    def labels(self) -> list[str]:
        return [self.label]

    @property
    def value(self) -> str:
        return self.label

    @model_validator(mode="after")
    def _equal_last_widths(self) -> Self:
        if self.query[-1] != self.item[-1]:
            raise ValueError(
                f"the towers of '{self.name}' meet in a dot product, so their last widths must be equal; "
                f"received query {self.query[-1]} and item {self.item[-1]}"
            )
        return self

    def check(self, schema: Schema) -> None:
        schema.refuse(self.query_features or [], "query", f"stages.{self.name}.query_features")
        schema.refuse(self.item_features or [], "item", f"stages.{self.name}.item_features")


class Dots(dict[str, Tensor]):
    """Logits by label, (C,), and what they are made of: scale·⟨query, item⟩ + bias has a value for any pair.

    The vectors are (R, d) and (padded I, d).
    """

    def __init__(
        self, logits: dict[str, Tensor], query: Tensor, item: Tensor, scale: Tensor, bias: Tensor
    ) -> None:
        super().__init__(logits)
        self.query, self.item, self.scale, self.bias = query, item, scale, bias


class Towers(nn.Module):
    """Logit exp(s)·⟨q, v⟩ + b: the scale cannot turn negative, so the order of the dot products holds."""

    def __init__(self, settings: TowersSettings, layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query = self._tower("query", settings.query, settings.query_features, settings, layout)
        self.item = self._tower("item", settings.item, settings.item_features, settings, layout)
        self.scale = nn.Parameter(torch.tensor(-0.5 * math.log(settings.query[-1])))
        self.bias = nn.Parameter(torch.tensor(0.0))

    @staticmethod
    def _tower(
        placement: Placement,
        widths: list[int],
        names: list[str] | None,
        settings: TowersSettings,
        layout: Layout,
    ) -> nn.Module:
        if names is None:
            return Tower(layout.width(placement), widths, settings)
        columns = layout.columns(placement, names)
        return nn.Sequential(Columns(columns.tolist()), Tower(len(columns), widths, settings))

    def forward(self, inputs: dict[Placement, Tensor], batch: Batch) -> Dots:
        """Logits by label: {label: (C,)}."""
        query, item, scale = self.query(inputs["query"]), self.item(inputs["item"]), self.scale.exp()
        logits = scale * pair_dot(query, item, batch) + self.bias
        return Dots({self.label: logits}, query, item, scale, self.bias)


class Columns(nn.Module):
    """Some columns of the dense input."""

    columns: Tensor

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.columns)
