"""Network of stage model `mlp`, an MLP over every feature: the first layer is split by side, so that only the pair's
part costs C. A teacher is one, too.

Attention over a history, cross layers and what it sees of earlier stages gather full inputs, and cost accordingly.
Serving keeps the item's part of the first layer, and what attention reads of it, with every item: the same sums.

Letters: R requests · I', C' distinct items and candidates of a batch, rounded up · C candidates · h units of the first
layer · w width of an item's attended features · W width of all dense inputs · s logged scores.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Attended, Layout, event_columns
from corank.models.attention import Din, GraphHistory
from corank.models.layers import ACTIVATIONS, Columns, activated_layers, linear, relu_in_place
from corank.models.named_axes import AxisNames, join, name_axes, name_event_columns, name_inputs, number
from corank.models.settings.mlp import ITEM, TARGET, DcnSettings, LayerSettings, MlpSettings, TeacherSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import EVENTS, PART, REQUEST_OF, Graph, ItemGraph, PartsGraph, StageModel

Product = tuple[Tensor, Tensor]
"""x and a weight, whose product x · weightᵀ counts: (C', ·), (h, ·)."""


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


class Heads(nn.Linear):
    """The logits of labels, from the hidden units and from inputs that are crossed."""

    def forward(self, x: Tensor, crossed: Tensor | None = None) -> Tensor:
        """(N, a), (N, W) → (N, labels)."""
        return linear(x if crossed is None else torch.cat((x, crossed), 1), self)


class Mlp(StageModel):
    """Logits by label of an MLP over query, item and pair, and any other inputs.

    A plug-in's subclass may override

    - what a side reads before the first layer: `build_inputs` and `read`;
    - the first and the hidden layers: `build_layer`; of the first, `first_weights` and `product`;
    - what stands above the hidden layers: `build_heads`;
    - how the first layer's units become logits: `above` in training, `logits` in an exported graph;
    - how a history is attended to: `build_attention`.
    """

    def __init__(self, settings: LayerSettings, layout: Layout) -> None:
        super().__init__()
        stage = settings if isinstance(settings, MlpSettings) else None  # else of a teacher
        self.ahead = stage is not None and bool(stage.item_parts)
        """Whether serving computes ahead of requests what it reads of items."""
        earlier = () if stage is None else tuple(stage.from_stages)
        self.labels, self.activation, self.dropout = settings.labels, settings.activation, settings.dropout
        read = self.build_inputs(settings, layout)
        query, item, *self.pair_widths = (len(read[placement]) for placement in PLACEMENTS)
        self.widths = [query, item, sum(self.pair_widths)]
        widths = settings.hidden
        self.first = self.build_layer(join([read[placement] for placement in PLACEMENTS]), widths[0])
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None
        self.hidden = nn.ModuleList(self.build_layer(a, b) for a, b in pairwise(widths))
        dense = join([name_inputs(layout, placement) for placement in PLACEMENTS]) if settings.dcn else ()
        self.dcn = Dcn(settings.dcn, dense) if settings.dcn else None
        self.heads = self.build_heads(settings, dense)
        self.din: Din | None = None
        if (attended := settings.attended(layout.schema)) is not None:
            self._build_interest(settings, layout, attended)
        self.earlier = _adding(earlier, widths[0]) if earlier else None

    def _build_interest(self, settings: LayerSettings, layout: Layout, attended: Attended) -> None:
        target = layout.columns("item", attended.features)
        self.target = Columns(target.tolist())
        of_items, of_events = event_columns(layout, attended.history, attended.features)
        # where events have nothing of their own, their columns are in this order
        self.event = Columns([*of_items, *of_events]) if len(of_events) else None
        items = name_inputs(layout, "item", target.tolist())
        own = name_event_columns(layout, attended.history, attended.features)
        last = layout.schema.histories()[attended.history].last
        self.din = self.build_attention(settings, items, own, last)
        self.interest = _adding((*items, *own), settings.hidden[0])

    def build_inputs(self, settings: LayerSettings, layout: Layout) -> dict[Placement, AxisNames]:
        """Build what `read` needs. Returns the names of what the first layer reads of each placement."""
        return {placement: name_inputs(layout, placement) for placement in PLACEMENTS}

    def build_layer(self, inputs: AxisNames | int, outputs: int) -> nn.Module:
        """Build the first layer, whose inputs have names, or a hidden one."""
        if isinstance(inputs, int):
            return nn.Linear(inputs, outputs)
        return name_axes(nn.Linear(len(inputs), outputs), weight=(None, inputs))

    def build_heads(self, settings: LayerSettings, crossed: AxisNames) -> nn.Module:
        """Build what makes logits of hidden units, and of crossed inputs by name: (N, a), (N, W) → (N, labels)."""
        width, labels = settings.hidden[-1], tuple(settings.labels)
        read = (*number(f"hidden of {width}", width), *crossed)
        return name_axes(Heads(len(read), len(labels)), weight=(labels, read), bias=(labels,))

    def build_attention(self, settings: LayerSettings, items: AxisNames, own: AxisNames, last: int) -> Din:
        """Build attention over a history.

        Args:
            settings: which name it.
            items: the names of an item's attended columns: (w,).
            own: the names of the columns that only events have.
            last: events of a request, at most.
        """
        assert settings.din is not None
        return Din(settings.din, items, settings.activation, own)

    def read(self, placement: Placement, x: Tensor) -> Tensor:
        """What the first layer reads of a placement's dense input."""
        return x

    def first_weights(self) -> tuple[Tensor, Tensor]:
        """The weight and the bias of the first layer's units: (h, ·), (h,)."""
        first = cast(nn.Linear, self.first)
        return first.weight, first.bias

    def forward(self, inputs: StageInputs) -> StageOutput:
        """Score all candidates: logits (C',) by label."""
        # autograd adds up an input's gradients in this order, and training must not change in the last bit
        products = self.pair_products(inputs)
        crossed = None if self.dcn is None else self.dcn(inputs)
        return self.above(self.sum_first(inputs, products), crossed)

    def sum_first(self, inputs: StageInputs, products: Sequence[Product]) -> Tensor:
        """The first layer's sums, from the sides and from what belongs to the pair: (C', h)."""
        first = inputs.pairs.sum(*self.sides(inputs.query, inputs.item))
        for x, weight in products:
            # in place: a pass over (C', h) to add what a product of few columns gave takes longer than the product
            first.addmm_(x, weight.t())
        return first

    def sides(self, query: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's sums over the query, bias included, and over the item: (R, h), (I', h)."""
        (of_query, of_item, _), bias = self._split(query)
        query, item = self.read("query", query), self.read("item", item)
        return functional.linear(query, of_query, bias), functional.linear(item, of_item)

    def pair_products(self, inputs: StageInputs) -> list[Product]:
        """What belongs to the pair, of several sorts, and the first layer's weights of it."""
        products = []
        if self.widths[2]:
            of_pair = _join(self.read("snapshot", inputs.snapshot), self.read("cross", inputs.cross))
            products.append((of_pair, self._split(of_pair)[0][2]))
        if self.din is not None and inputs.history is not None:
            interest = self.din(self.target(inputs.item), inputs.history, self.event)
            products.append(self.product(inputs.pairs.fill(interest).to(inputs.cross.dtype), self.interest))
        if self.earlier is not None and inputs.earlier is not None:
            products.append(self.product(inputs.earlier, self.earlier))
        return products

    def product(self, x: Tensor, layer: nn.Linear) -> Product:
        """The factors of a linear layer without bias, whose outputs are added to the first layer's units."""
        return x, layer.weight.to(x.dtype)

    def _split(self, like: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The first layer's weights of query, item and pair, and its bias."""
        weight, bias = self.first_weights()
        return torch.split(weight.to(like.dtype), self.widths, dim=1), bias.to(like.dtype)

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of items and of candidates; the whole one if nothing is computed ahead."""
        if not self.ahead:
            return super().graphs()
        parts = (ITEM,) if self.din is None else (ITEM, TARGET)
        others = ("query", REQUEST_OF, "cross", *EVENTS, "earlier")
        return {
            "item": Graph(ItemGraph(self, self.record_parts), ("item", "snapshot"), parts),
            "value": Graph(
                PartsGraph(self, self.score_parts), (*(PART + name for name in parts), *others), ("logits",)
            ),
        }

    def record_parts(self, item: Tensor, snapshot: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """What serving keeps of items: the first layer's sums over row and snapshot (N, h), the targets (N, w)."""
        (_, of_item, of_pair), _ = self._split(item)
        sums = functional.linear(self.read("item", item), of_item)
        if snapshot is not None:
            of_snapshot, _ = torch.split(of_pair, self.pair_widths, dim=1)
            sums = sums + functional.linear(self.read("snapshot", snapshot), of_snapshot)
        return sums if self.din is None else (sums, self.target(item))

    def score_parts(self, given: Mapping[str, Tensor]) -> Tensor:
        """Score candidates from their item parts: (n, labels)."""
        query, request_of = given["query"], given[REQUEST_OF]
        (of_query, _, of_pair), bias = self._split(query)
        of_query = functional.linear(self.read("query", query), of_query, bias)
        first = given[PART + ITEM] + of_query.index_select(0, request_of)
        if "cross" in given:
            _, of_cross = torch.split(of_pair, self.pair_widths, dim=1)
            first = first + functional.linear(self.read("cross", given["cross"]), of_cross)
        if self.din is not None:
            history = GraphHistory(*(given[name] for name in EVENTS if name in given))
            interest = self.din(given[PART + TARGET], history, self.event)
            first = first + functional.linear(*self.product(interest, self.interest))
        if self.earlier is not None:
            first = first + functional.linear(*self.product(given["earlier"], self.earlier))
        return self.logits(first)

    def above(self, first: Tensor, crossed: Tensor | None = None) -> StageOutput:
        """Logits (C',) from the first layer's sums (C', h), and from the crossed inputs (C', W)."""
        return StageOutput(dict(zip(self.labels, self.logits(first, crossed).unbind(1), strict=True)))

    def logits(self, first: Tensor, crossed: Tensor | None = None) -> Tensor:
        """What `above` gives, side by side: (C', labels)."""
        hidden, dropout = cast(Sequence[nn.Linear], self.hidden), self.dropout if self.training else 0.0
        x = activated_layers(self.activate(first), hidden, self.activation, dropout)
        logits: Tensor = self.heads(x, crossed)
        return logits.float()

    def activate(self, first: Tensor) -> Tensor:
        """What comes of the first layer's sums: normalised, activated, with dropout."""
        if self.norm is not None:
            first = self.norm(first.float()).to(first.dtype)
        # relu in place: nobody reads the sums again, and new memory for (C', h) takes longer than the pass
        active = relu_in_place(first) if self.activation == "relu" else ACTIVATIONS[self.activation](first)
        return functional.dropout(active, self.dropout, self.training)


def _adding(inputs: AxisNames, width: int) -> nn.Linear:
    """A layer whose outputs are added to the first layer's."""
    return name_axes(nn.Linear(len(inputs), width, bias=False), weight=(None, inputs))


def _join(snapshot: Tensor, cross: Tensor) -> Tensor:
    """What a candidate has of its own, side by side: (C', ·). Nothing is copied where there is only one of both."""
    parts = [part for part in (snapshot, cross) if part.shape[1]]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class Teacher(Mlp):
    """An MLP that also sees what production scored, which nobody has once production is replaced.

    It is trained and teaches (`distill`), but is no stage of the cascade: neither evaluated there nor shipped. What
    production's score is worth on top of the features it learns from clicks, so it carries over to candidates that were
    never shown as far as clicks confirm it. Source: privileged features distillation, Xu et al., KDD 2020.
    """

    def __init__(self, settings: TeacherSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.scores = settings.scores
        read = (*settings.scores, *(f"{score} missing" for score in settings.scores))
        self.scored = _adding(read, settings.hidden[0])

    def pair_products(self, inputs: StageInputs) -> list[Product]:
        """The products of an MLP, and one of the logged scores."""
        scores = torch.stack([inputs.scores[name] for name in self.scores], dim=1)
        seen = inputs.pairs.fill(torch.cat((scores.nan_to_num(), scores.isnan().float()), dim=1))
        return [self.product(seen.to(inputs.cross.dtype), self.scored), *super().pair_products(inputs)]
