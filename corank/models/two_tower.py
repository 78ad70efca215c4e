"""Network of stage model `towers`: a query and an item tower that meet in a dot product, the usual pre-ranker.

Letters: N rows of one side · W columns of its input · R requests · I', C' distinct items and candidates of a batch,
rounded up · d width of the vectors.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.encoding import Placement
from corank.features.input_layout import Layout
from corank.models.layers import ACTIVATIONS, Columns, SnapshotTerm, activated_layers, linear
from corank.models.named_axes import AxisNames, name_axes, name_inputs, number
from corank.models.settings.network import NetworkSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import MATCHES, Graph, VectorModel


def _make_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer; without inputs, as for items that have priors alone, its bias."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inputs, outputs)


class Tower(nn.Module):
    """An MLP whose last layer is linear: (N, width) → (N, widths[-1])."""

    def __init__(
        self, inputs: AxisNames, widths: Sequence[int], settings: NetworkSettings, outputs: AxisNames
    ) -> None:
        """`inputs` and `outputs` are the names of its columns and of what it gives, `widths[-1]` numbers."""
        super().__init__()
        self.activation, self.dropout = settings.activation, settings.dropout
        sizes = [len(inputs), *widths]
        layers = [_make_linear(a, b) for a, b in pairwise(sizes)]
        name_axes(layers[0], weight=(None, inputs))
        name_axes(layers[-1], weight=(outputs, inputs if len(layers) == 1 else None), bias=(outputs,))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → (N, widths[-1])."""
        *hidden, last = cast(Sequence[nn.Linear], self.layers)
        dropout = self.dropout if self.training else 0.0
        if hidden and self.norm is not None:
            first, *hidden = hidden
            x = ACTIVATIONS[self.activation](self.norm(linear(x, first).float()).to(x.dtype))
            x = functional.dropout(x, dropout)
        return linear(activated_layers(x, hidden, self.activation, dropout), last)


class FeatureDropout(nn.Module):
    """In training a feature's columns are 0 at a rate, and 1/(1 − rate) times as large otherwise.

    With squared error and a linear layer, y ≈ c(x) + r of a feature's own part r and the others' part c, the minimum is
    r = (1 − rate)·(y − c) on the mean of the rows that share the feature: c must do without r, and r is shrunk to 1 −
    rate of what is left. Scaling the layers up or down does not undo that, as it does with a penalty on weights.
    Dropout (Srivastava et al., JMLR 2014) of whole features; corank uses it to set how far to trust an id.
    """

    def __init__(self, layout: Layout, placement: Placement, rates: Mapping[str, float]) -> None:
        """`rates`: by feature; those of other placements are left alone."""
        super().__init__()
        placed = layout.schema.row_features(placement)
        self.rates = [rate for name, rate in rates.items() if name in placed]
        self.columns = nn.ModuleList(
            Columns(layout.columns(placement, [name]).tolist()) for name in rates if name in placed
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) → (N, W), as it is outside training."""
        if not self.training or not self.rates:
            return x
        factor = torch.ones_like(x)
        for rate, chosen in zip(self.rates, self.columns, strict=True):
            kept = functional.dropout(x.new_ones(len(x), 1), rate)
            columns = cast(Columns, chosen).columns
            factor.index_copy_(1, columns, kept.expand(-1, len(columns)))
        return x * factor


class MatchTerm(nn.Module):
    """⟨w, x⟩ of the columns x of some matches: numbers, or embeddings of buckets.

    w begins at nought for numbers and at one for embeddings, so that each bucket learns a term at the rate of tables.
    """

    def __init__(self, layout: Layout, features: Sequence[str]) -> None:
        """`features` are the names of the matches."""
        super().__init__()
        columns = layout.columns("cross", features).tolist()
        self.columns = Columns(columns)
        embedded = [n for n in features if layout.schema.features[n].storage == "id"]
        ones = torch.from_numpy(np.isin(columns, layout.columns("cross", embedded)))
        self.weight = nn.Parameter(ones.float())
        name_axes(self, weight=(name_inputs(layout, "cross", columns),))

    def forward(self, inputs: StageInputs) -> Tensor:
        """What is added to logits: (C',)."""
        return torch.mv(self.columns(inputs.cross).float(), self.weight)

    def constants(self) -> dict[str, float]:
        """The weights, for the scorer, by `match_N` in the order of the columns."""
        return {f"match_{n}": weight for n, weight in enumerate(self.weight.tolist())}


class Towers(VectorModel):
    """Logit exp(s)·⟨q, v⟩ + b: the scale cannot turn negative, so the order of the dot products holds.

    v is what the item tower makes of the item row, plus what a small network makes of the item's snapshot features.
    With biases the towers give d − 1 numbers each, the last of which is the side's bias, and q = [q', 1, √d·b_q],
    v = [v', b_i, 1]: retrieval, stores and in-batch losses read biases as any other number of the vectors. exp(s)
    begins at 1/√d, so that the query's bias, which every candidate of a request shares, is added as it is.
    Matches add a term to the logit that no vector knows.

    A plug-in's subclass may override `build_tower`, what a side's vectors are made by; and how they meet: `meet` in a
    batch, `meet_vectors` in an exported graph.
    """

    def __init__(self, settings: TowersSettings, layout: Layout) -> None:
        super().__init__()
        self.label, self.biases = settings.label, settings.bias
        self.query = self._queries(settings, layout)
        self.item = self._tower("item", settings.item, settings.item_features, settings, layout)
        self.query_dropout = FeatureDropout(layout, "query", settings.feature_dropout)
        self.item_dropout = FeatureDropout(layout, "item", settings.feature_dropout)
        self.scale = nn.Parameter(torch.tensor(-0.5 * math.log(settings.item[-1])))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.snapshot = SnapshotTerm.of(layout, settings.item[-1], settings.item_features)
        if self.snapshot is not None:
            name_axes(self.snapshot.out, weight=(_vector_names(settings, "item", "query"), None))
        self.matches = MatchTerm(layout, settings.matches) if settings.matches else None

    def _queries(self, settings: TowersSettings, layout: Layout) -> nn.Module:
        if not settings.query_towers:
            return self._tower("query", settings.query, settings.query_features, settings, layout)
        widths = settings.queries()
        return Sum(
            self._tower("query", widths[name], tower.features, settings, layout)
            for name, tower in settings.query_towers.items()
        )

    def _tower(
        self,
        placement: Placement,
        widths: list[int],
        names: list[str] | None,
        settings: TowersSettings,
        layout: Layout,
    ) -> nn.Module:
        outputs = _vector_names(settings, placement)
        columns = None if names is None else layout.columns(placement, names).tolist()
        inputs = name_inputs(layout, placement, columns)
        chosen = None if columns is None else Columns(columns)
        return self.build_tower(settings, chosen, inputs, [*widths[:-1], len(outputs)], outputs)

    def build_tower(
        self,
        settings: TowersSettings,
        columns: Columns | None,
        inputs: AxisNames,
        widths: Sequence[int],
        outputs: AxisNames,
    ) -> nn.Module:
        """Build what makes one side's numbers of its dense input: (N, W) → (N, widths[-1]).

        Args:
            settings: of the stage.
            columns: chooses what it reads of the dense input; all of it if None.
            inputs: the names of what it reads.
            widths: of its layers.
            outputs: the names of what it gives.
        """
        tower = Tower(inputs, widths, settings, outputs)
        return tower if columns is None else nn.Sequential(columns, tower)

    def forward(self, inputs: StageInputs) -> StageOutput:
        """Score all candidates: logits (C,), and, without matches, the vectors that they are made of."""
        return self.score(inputs, self.query_vectors(inputs.query), self.item_vectors(inputs.item))

    def score(self, inputs: StageInputs, query: Tensor, item: Tensor) -> StageOutput:
        """Score candidates by the vectors of queries (R, d) and items (I', d), and by matches."""
        output = self.meet(inputs, query, item)
        if self.matches is None:
            return output
        logits = output.logits[self.label]
        return replace(
            output, logits={self.label: logits + self.matches(inputs)[: len(logits)]}, vectors=None
        )

    def query_vectors(self, query: Tensor) -> Tensor:
        """The vectors of queries: (R, ·) → (R, d)."""
        vectors: Tensor = self.query(self.query_dropout(query))
        if not self.biases:
            return vectors
        product, bias, root = vectors[:, :-1], vectors[:, -1:], math.sqrt(vectors.shape[1] + 1)
        if torch.compiler.is_exporting():  # one operator of a graph in place of six: the same numbers
            columns = torch.eye(vectors.shape[1] + 1)[:, [*range(vectors.shape[1] - 1), -1]]
            columns[-1, -1] = root
            one = torch.zeros(vectors.shape[1] + 1)
            one[-2] = 1
            return functional.linear(vectors, columns, one)
        return torch.cat((product, torch.ones_like(bias), root * bias), dim=1)

    def item_vectors(self, item: Tensor) -> Tensor:
        """The vectors of items: (I', ·) → (I', d)."""
        vectors: Tensor = self.item(self.item_dropout(item))
        return torch.cat((vectors, torch.ones_like(vectors[:, :1])), dim=1) if self.biases else vectors

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of queries, of items, and of candidates, which read what matches add, if there are some."""
        graphs = dict(super().graphs())
        if self.matches is not None:
            scored = graphs["value"]
            graphs["value"] = replace(scored, inputs=(*scored.inputs, MATCHES))
        return graphs

    def score_parts(self, given: Mapping[str, Tensor]) -> Tensor:
        """Score candidates, matches included: (n, 1)."""
        logits = super().score_parts(given)
        return logits if self.matches is None else logits + given[MATCHES].unsqueeze(1)

    def constants(self) -> Mapping[str, float]:
        """Numbers that the scorer needs: scale and bias of the product, and the weights of matches."""
        return {**super().constants(), **({} if self.matches is None else self.matches.constants())}

    def logit_scale(self) -> Tensor:
        """exp(s), which cannot turn negative."""
        return self.scale.exp()

    def logit_bias(self) -> Tensor:
        """The learnt bias."""
        return self.bias


def _vector_names(settings: TowersSettings, *sides: Placement) -> AxisNames:
    """Name the numbers of a vector: those that meet in the product, then the biases of some sides."""
    biases = tuple(f"{side} bias" for side in sides) if settings.bias else ()
    return (*number("vector", settings.item[-1] - 2 * settings.bias), *biases)


class Sum(nn.Module):
    """The sum of what several towers give."""

    def __init__(self, towers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        """(R, ·) → (R, d)."""
        vectors = [tower(x) for tower in self.towers]
        return torch.stack(vectors).sum(0)
