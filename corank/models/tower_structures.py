"""Networks of stage models `towers_mlp` and `towers_heads`: towers whose vectors meet in more than a dot product.

Item vectors are computed ahead of requests as those of `towers` are, and a request costs little more: one matrix for
all candidates, or a product a pair of heads. There is no vector of a query whose product would order items, so that
neither retrieval nor in-batch losses may take these vectors.

Letters: R requests · C' candidates of a batch, rounded up · d width of the vectors · h hidden units · H heads of p
numbers each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.models.graphs import Graph
from corank.models.layers import linear
from corank.models.settings.tower_structures import TowersHeadsSettings, TowersMlpSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.two_tower import Towers


class TowersMlp(Towers):
    """Logit w · relu(W_q q + W_v v + W_p (q ∘ v) + c) + exp(s)·⟨q, v⟩ + b.

    Of one request W_v + W_p · diag(q) is a matrix, W_q q + c a vector, so that a candidate costs one product of that
    matrix and v. A pre-ranker of full layers at a bounded price: COLD (Wang et al. 2020, arXiv 2007.16122).
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

    def meet_vectors(self, query: Tensor, vectors: Tensor) -> Tensor:
        """As `VectorModel.meet_vectors`. W_v + W_p · diag(q) is one matrix, computed once a request."""
        units = functional.linear(
            vectors, self.of_item.weight + self.of_product.weight * query, linear(query, self.of_query)[0]
        )
        hidden = linear(functional.relu(units), self.weight).squeeze(1)
        return hidden + super().meet_vectors(query, vectors)

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of items and of candidates; no product orders items, so that a query's vector is of no use."""
        return {name: graph for name, graph in super().graphs().items() if name != "query"}

    def constants(self) -> Mapping[str, float]:
        """The weights of matches."""
        return {} if self.matches is None else self.matches.constants()


class TowersHeads(Towers):
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

    def meet_vectors(self, query: Tensor, vectors: Tensor) -> Tensor:
        """As `VectorModel.meet_vectors`. exp(s)·q stands for q: a positive factor commutes with the maximum."""
        scaled, within = self.logit_scale() * query, self.in_heads
        count = within // self.head
        met = vectors[:, :within].reshape(-1, self.head) @ scaled[:, :within].reshape(-1, self.head).t()
        logits = met.reshape(-1, count, count).amax(dim=1).sum(dim=1) + self.logit_bias()
        if self.biases:
            logits = logits + functional.linear(scaled[:, within:], vectors[:, within:]).squeeze(0)
        return logits

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of items and of candidates; no product orders items, so that a query's vector is of no use."""
        return {name: graph for name, graph in super().graphs().items() if name != "query"}

    def constants(self) -> Mapping[str, float]:
        """The weights of matches."""
        return {} if self.matches is None else self.matches.constants()
