"""Network of stage model `towers`: a query and an item tower that meet in a dot product, the usual pre-ranker.

Letters: N rows of one side · d last width of the towers.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.features.schema import Placement
from corank.models.inputs.named_axes import AxisNames, name_axes, name_inputs
from corank.models.layers import ACTIVATIONS, Columns, SnapshotTerm, activated, linear
from corank.models.settings.network import NetworkSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_model import VectorModel


class Tower(nn.Module):
    """An MLP whose last layer is linear: (N, width) → (N, widths[-1])."""

    def __init__(self, inputs: AxisNames, widths: Sequence[int], settings: NetworkSettings) -> None:
        """`inputs`: the names of its columns."""
        super().__init__()
        self.activation, self.dropout = settings.activation, settings.dropout
        first = name_axes(nn.Linear(len(inputs), widths[0]), weight=(None, inputs))
        self.layers = nn.ModuleList([first, *(nn.Linear(a, b) for a, b in pairwise(widths))])
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → (N, widths[-1])."""
        *hidden, last = cast(Sequence[nn.Linear], self.layers)
        for depth, layer in enumerate(hidden):
            if depth == 0 and self.norm is not None:
                x = ACTIVATIONS[self.activation](self.norm(linear(x, layer).float()).to(x.dtype))
            else:
                x = activated(x, layer, self.activation)
            x = functional.dropout(x, self.dropout, self.training)
        return linear(x, last)


class Towers(VectorModel):
    """Logit exp(s)·⟨q, v⟩ + b: the scale cannot turn negative, so the order of the dot products holds.

    v is what the item tower makes of the item row, plus what a small network makes of the item's snapshot features.
    """

    def __init__(self, settings: TowersSettings, layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query = self._queries(settings, layout)
        self.item = self._tower("item", settings.item, settings.item_features, settings, layout)
        self.scale = nn.Parameter(torch.tensor(-0.5 * math.log(settings.item[-1])))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.snapshot = SnapshotTerm.of(layout, settings.item[-1], settings.item_features)

    def _queries(self, settings: TowersSettings, layout: Layout) -> nn.Module:
        if not settings.query_towers:
            return self._tower("query", settings.query, settings.query_features, settings, layout)
        widths = settings.queries()
        return Sum(
            self._tower("query", widths[name], tower.features, settings, layout)
            for name, tower in settings.query_towers.items()
        )

    @staticmethod
    def _tower(
        placement: Placement,
        widths: list[int],
        names: list[str] | None,
        settings: TowersSettings,
        layout: Layout,
    ) -> nn.Module:
        if names is None:
            return Tower(name_inputs(layout, placement), widths, settings)
        columns = layout.columns(placement, names).tolist()
        return nn.Sequential(
            Columns(columns), Tower(name_inputs(layout, placement, columns), widths, settings)
        )

    def query_vectors(self, query: Tensor) -> Tensor:
        """The vectors of queries: (R, ·) → (R, d)."""
        vectors: Tensor = self.query(query)
        return vectors

    def item_vectors(self, item: Tensor) -> Tensor:
        """The vectors of items: (I', ·) → (I', d)."""
        vectors: Tensor = self.item(item)
        return vectors

    def logit_scale(self) -> Tensor:
        """exp(s), which cannot turn negative."""
        return self.scale.exp()

    def logit_bias(self) -> Tensor:
        """The learnt bias."""
        return self.bias


class Sum(nn.Module):
    """The sum of what several towers give."""

    def __init__(self, towers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        """(R, ·) → (R, d)."""
        vectors = [tower(x) for tower in self.towers]
        return torch.stack(vectors).sum(0)
