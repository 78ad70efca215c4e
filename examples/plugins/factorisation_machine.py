"""Two stage models: a factorisation machine as ranker, and as pre-ranker whose item vectors are computed ahead.

    stages:
      - {name: prerank, model: fm_vectors, factors: 16, keep: 50}
      - {name: rank, model: fm, factors: 16, keep: 10}

Every column x_i of the dense inputs has a weight w_i and a factor v_i ∈ R^d, and

    logit = b + Σ_i w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j,   Σ_{i<j} = ½ (‖Σ_i v_i x_i‖² − Σ_i ‖v_i‖² x_i²).

The columns of query and item meet in ⟨s_query, s_item⟩ alone, with s = Σ_i v_i x_i, so the pre-ranker's logit is a dot
product of [s_query, t_query, 1] and [s_item, 1, t_item], t being a side's own terms. It sees no crosses.

Source: Rendle, Factorization Machines, ICDM 2010.

Letters: N rows of one side · R requests · C' candidates, rounded up · d factors.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from corank.features.input_layout import Layout
from corank.models.settings.stage import STAGE_MODELS, VECTOR, SingleLabelSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import StageModel, VectorModel


class FactorSettings(SingleLabelSettings):
    """Settings of both factorisation machines."""

    factors: PositiveInt = 16
    """Components of each factor."""


class SideTerms(nn.Module):
    """The terms of one side's columns: the sum s of factors, and the side's own terms t."""

    def __init__(self, width: int, factors: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.factor = nn.Parameter(torch.randn(width, factors) * 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width) → s (N, d), t (N, 1)."""
        x = x.float()
        total = x @ self.factor
        squares = (x * x) @ (self.factor * self.factor).sum(1, keepdim=True)
        own = x @ self.weight.unsqueeze(1) + (total.square().sum(1, keepdim=True) - squares) / 2
        return total, own


class FactorisationMachine(StageModel):
    """The ranker: query, item and cross columns meet each other."""

    def __init__(self, settings: "FmSettings", layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.sides = nn.ModuleDict(
            {
                "query": SideTerms(layout.width("query"), settings.factors),
                "item": SideTerms(layout.width("item"), settings.factors),
                "cross": SideTerms(layout.width("cross"), settings.factors),
            }
        )
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: StageInputs) -> StageOutput:
        query, query_own = self.sides["query"](inputs.query)
        item, item_own = self.sides["item"](inputs.item)
        cross, cross_own = self.sides["cross"](inputs.cross)
        # ⟨q, i⟩ + ⟨q + i, c⟩ of each candidate
        q, i = inputs.pairs.spread_query(query), inputs.pairs.spread_item(item)
        met = (q * i + (q + i) * cross).sum(1, keepdim=True)
        own = inputs.pairs.sum(query_own, item_own, cross_own)
        return StageOutput({self.label: (met + own).squeeze(1) + self.bias})


class FactorVectors(VectorModel):
    """The pre-ranker: query and item columns meet in a dot product."""

    def __init__(self, settings: "FmVectorsSettings", layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query = SideTerms(layout.width("query"), settings.factors)
        self.item = SideTerms(layout.width("item"), settings.factors)
        self.bias = nn.Parameter(torch.zeros(()))

    def query_vectors(self, query: Tensor) -> Tensor:
        total, own = self.query(query)
        return torch.cat((total, own, torch.ones_like(own)), dim=1)

    def item_vectors(self, item: Tensor) -> Tensor:
        total, own = self.item(item)
        return torch.cat((total, torch.ones_like(own), own), dim=1)

    def logit_bias(self) -> Tensor:
        return self.bias


@STAGE_MODELS.register("fm")
class FmSettings(FactorSettings):
    """A factorisation machine as ranker."""

    model: Literal["fm"]

    def build(self, layout: Layout) -> FactorisationMachine:
        return FactorisationMachine(self, layout)


@STAGE_MODELS.register("fm_vectors")
class FmVectorsSettings(FactorSettings):
    """A factorisation machine as pre-ranker."""

    model: Literal["fm_vectors"]

    @property
    def scorer(self) -> str:
        return "vectors"

    @property
    def item_parts(self) -> tuple[str, ...]:
        return (VECTOR,)

    def build(self, layout: Layout) -> FactorVectors:
        return FactorVectors(self, layout)
