"""Networks of stage models `towers_generated`, `towers_mlp` and `towers_heads`.

Item vectors are computed ahead of requests as those of `towers` are, and a request costs little more: one matrix for
all candidates, or a product a pair of heads. There is no vector of a query whose product would order items of the last
two, so that neither retrieval nor in-batch losses may take their vectors.

Letters: N rows of one side · R requests · I', C' distinct items and candidates of a batch, rounded up · d width of the
vectors · h hidden units · H heads of p numbers each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.models.layers import Columns, linear
from corank.models.named_axes import AxisNames, number
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import Graph
from corank.models.two_tower import Tower, Towers
from corank_lab.models.towers import GeneratingSettings, TowersHeadsSettings, TowersMlpSettings


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
    """A tower that reads its features and what its generator makes of them, which the tower does not train.

    Source: the dual generators of HIT, Yang et al. 2025 (arXiv 2505.19849), those of targets, after the dual augmented
    two-tower, Yu et al., DLP-KDD 2021.
    """

    def __init__(self, columns: nn.Module, generator: nn.Module, tower: nn.Module) -> None:
        """`columns` chooses what both read, `generator` gives d numbers, and `tower` reads these, too."""
        super().__init__()
        self.columns, self.generator, self.tower = columns, generator, tower

    def mimic(self, x: Tensor) -> Tensor:
        """The other side's vector as this one imagines it: (N, width) → (N, d), of length 1."""
        return self._imagine(self.columns(x))

    def _imagine(self, x: Tensor) -> Tensor:
        return functional.normalize(self.generator(x).float(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → what the tower gives."""
        x = self.columns(x)
        output: Tensor = self.tower(torch.cat((x, self._imagine(x).detach().to(x.dtype)), dim=1))
        return output


class GeneratingTowers(Towers):
    """Towers that may read what their side imagines the other's vector to be."""

    def build_tower(
        self,
        settings: TowersSettings,
        columns: Columns | None,
        inputs: AxisNames,
        widths: Sequence[int],
        outputs: AxisNames,
    ) -> nn.Module:
        """As `Towers.build_tower`, with a generator if the settings say so."""
        assert isinstance(settings, GeneratingSettings)
        if settings.generated is None:
            return super().build_tower(settings, columns, inputs, widths, outputs)
        mimic = number("mimic", settings.item[-1] - 2 * settings.bias)
        generator = Tower(inputs, [*settings.generated, len(mimic)], settings, mimic)
        tower = Tower((*inputs, *mimic), widths, settings, outputs)
        return GeneratingTower(columns or nn.Identity(), generator, tower)

    def score(self, inputs: StageInputs, query: Tensor, item: Tensor) -> StageOutput:
        """As `Towers.score`, and in training what the towers imagine of each other."""
        output, of_query, of_item = super().score(inputs, query, item), self.query, self.item
        if not (
            self.training and isinstance(of_query, GeneratingTower) and isinstance(of_item, GeneratingTower)
        ):
            return output
        within = query.shape[1] - 2 * self.biases
        mimics = Mimics(
            partial(of_query.mimic, inputs.query),
            partial(of_item.mimic, inputs.item),
            query[:, :within].detach().float(),
            item[:, :within].detach().float(),
        )
        return replace(output, extras={**output.extras, "mimics": mimics})


class MeetingTowers(GeneratingTowers):
    """Towers whose vectors meet in more than a product."""

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of items and of candidates; no product orders items, so that a query's vector is of no use."""
        return {name: graph for name, graph in super().graphs().items() if name != "query"}

    def constants(self) -> Mapping[str, float]:
        """The weights of matches."""
        return {} if self.matches is None else self.matches.constants()


class TowersMlp(MeetingTowers):
    """Logit w · relu(W_q q + W_v v + W_p (q ∘ v) + c) + exp(s)·⟨q, v⟩ + b.

    A pre-ranker of full layers at a bounded price: COLD (Wang et al. 2020, arXiv 2007.16122).
    """

    def __init__(self, settings: TowersMlpSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        d, h = settings.item[-1], settings.hidden
        self.of_query, self.of_item = nn.Linear(d, h), nn.Linear(d, h, bias=False)
        self.of_product, self.weight = nn.Linear(d, h, bias=False), nn.Linear(h, 1, bias=False)

    def meet(self, inputs: StageInputs, query: Tensor, item: Tensor) -> StageOutput:
        """Score candidates: logits (C',)."""
        query, item = query.float(), item.float()
        of_item = linear(item, self.of_item)
        items, terms = inputs.pairs.spread_item(item), []
        if self.snapshot is not None:
            own = self.snapshot.vectors(self.snapshot.hidden(inputs.snapshot))
            items, terms = items + own, [linear(own, self.of_item)]
        met = inputs.pairs.spread_query(query) * items
        first = inputs.pairs.sum(linear(query, self.of_query), of_item, linear(met, self.of_product), *terms)
        hidden = linear(functional.relu(first), self.weight).squeeze(1)
        return StageOutput({self.label: hidden + self.logit_scale() * met.sum(1) + self.logit_bias()})

    def meet_vectors(self, query: Tensor, vectors: Tensor, request_of: Tensor) -> Tensor:
        """As `VectorModel.meet_vectors`."""
        met = query.index_select(0, request_of) * vectors
        units = linear(vectors, self.of_item) + linear(met, self.of_product)
        units = units + linear(query, self.of_query).index_select(0, request_of)
        hidden = linear(functional.relu(units), self.weight).squeeze(1)
        return hidden + self.logit_scale() * met.sum(1) + self.logit_bias()


class TowersHeads(MeetingTowers):
    """Logit exp(s)·(Σ_i max_j ⟨q_i, v_j⟩ + b_item + b_query) + b, of heads q_i and v_j.

    Source: late interaction of IntTower (Li et al., CIKM 2022, arXiv 2210.09890), after ColBERT (Khattab and Zaharia,
    SIGIR 2020).
    """

    def __init__(self, settings: TowersHeadsSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.head, self.in_heads = settings.head, settings.item[-1] - 2 * settings.bias

    def meet(self, inputs: StageInputs, query: Tensor, item: Tensor) -> StageOutput:
        """Score candidates: logits (C',)."""
        query, item = query.float(), item.float()
        queries, items = inputs.pairs.spread_query(query), inputs.pairs.spread_item(item)
        if self.snapshot is not None:
            items = items + self.snapshot.vectors(self.snapshot.hidden(inputs.snapshot))
        met = torch.bmm(self._heads(items), self._heads(queries).transpose(1, 2))
        similarity = met.max(dim=1).values.sum(1)
        biases = (queries[:, self.in_heads :] * items[:, self.in_heads :]).sum(1)
        return StageOutput({self.label: self.logit_scale() * (similarity + biases) + self.logit_bias()})

    def _heads(self, vectors: Tensor) -> Tensor:
        """(C', d) → (C', H, p)."""
        return vectors[:, : self.in_heads].reshape(vectors.shape[0], -1, self.head)

    def meet_vectors(self, query: Tensor, vectors: Tensor, request_of: Tensor) -> Tensor:
        """As `VectorModel.meet_vectors`. exp(s)·q stands for q: a positive factor commutes with the maximum."""
        scaled, within = (self.logit_scale() * query).index_select(0, request_of), self.in_heads
        met = self._heads(vectors) @ self._heads(scaled).transpose(1, 2)
        logits = met.amax(dim=1).sum(dim=1) + self.logit_bias()
        if self.biases:
            logits = logits + (scaled[:, within:] * vectors[:, within:]).sum(1)
        return logits
