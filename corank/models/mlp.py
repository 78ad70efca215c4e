"""Network of stage model `mlp`, an MLP over every feature: the first layer is split by side, so that only the pair's
part costs C.

Attention over a history, cross layers and what it sees of earlier stages gather full inputs, and cost accordingly.
Serving keeps the item's part of the first layer, and what attention reads of it, with every item: the same sums.
With members the first layer's sums are those of all members side by side. Experts stand above the hidden layers.

Letters: R requests · I', C' distinct items and candidates of a batch, rounded up · h first width, of all members
· w width of an item's attended features · W width of all dense inputs · k members.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout, event_columns
from corank.features.schema import PLACEMENTS, Placement
from corank.models.dcn import Dcn
from corank.models.graphs import PART, Graph, ItemGraph, PartsGraph
from corank.models.histories.attended import SingleRequestHistory
from corank.models.histories.din import Din
from corank.models.histories.sequence_encoder import SequenceEncoder
from corank.models.inputs.gates import FeatureGates
from corank.models.inputs.named_axes import (
    AxisNames,
    join,
    name_axes,
    name_event_columns,
    name_inputs,
    number,
)
from corank.models.inputs.numbers import NumberEmbedding, embed_numbers
from corank.models.layers import ACTIVATIONS, Columns, activated_layers, linear
from corank.models.mixtures.experts import ExpertHeads
from corank.models.mixtures.members import MemberHeads, MemberLinear, average_members
from corank.models.settings.mlp import ITEM, TARGET
from corank.models.settings.network import LayerSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import StageModel

Product = tuple[Tensor, Tensor]
"""x and a weight, whose product x · weightᵀ counts: (C', ·), (h, ·)."""


class Mlp(StageModel):
    """Logits by label of an MLP over query, item and pair, and any other inputs."""

    def __init__(
        self, settings: LayerSettings, layout: Layout, earlier: Sequence[str] = (), ahead: bool = False
    ) -> None:
        """
        Args:
            settings: of the layers.
            layout: of dense inputs.
            earlier: the numbers that it sees of earlier stages.
            ahead: whether serving computes ahead of requests what it reads of items.
        """
        super().__init__()
        self.ahead = ahead
        self.labels, self.activation, self.dropout = settings.labels, settings.activation, settings.dropout
        self.members = settings.members
        self.numbers = nn.ModuleDict(
            {
                p: built
                for p in PLACEMENTS
                if (built := embed_numbers(settings.numbers, layout, p)) is not None
            }
        )
        read = {p: join([name_inputs(layout, p), self._embedded(p)]) for p in PLACEMENTS}
        self.gates = nn.ModuleDict(
            {
                p: FeatureGates(names, [name.partition("[")[0] for name in names], settings.gates.hidden)
                for p, names in read.items()
                if settings.gates is not None and names
            }
        )
        query, item, *self.pair_widths = (len(names) for names in read.values())
        self.widths = [query, item, sum(self.pair_widths)]
        self._build_layers(
            settings, join(list(read.values())), join([name_inputs(layout, p) for p in PLACEMENTS])
        )
        self.din: Din | None = None
        attended = settings.attended(layout.schema)
        if settings.din and attended:
            target = layout.columns("item", attended.features)
            self.target = Columns(target.tolist())
            of_items, of_events = event_columns(layout, attended.history, attended.features)
            # where events have nothing of their own, their columns are in this order
            self.event = Columns([*of_items, *of_events]) if len(of_events) else None
            item_names = name_inputs(layout, "item", target.tolist())
            event_names = name_event_columns(layout, attended.history, attended.features)
            attended_names = join([item_names, event_names])
            last = layout.schema.histories()[attended.history].last
            encoded = settings.din.encoder
            encoder = SequenceEncoder(encoded, attended_names, last, self.dropout) if encoded else None
            self.din = Din(settings.din, item_names, settings.activation, event_names, encoder)
            self.interest = name_axes(
                nn.Linear(len(attended_names), settings.hidden[0], bias=False), weight=(None, attended_names)
            )
        self.earlier = (
            name_axes(nn.Linear(len(earlier), settings.hidden[0], bias=False), weight=(None, tuple(earlier)))
            if earlier
            else None
        )

    def _build_layers(self, settings: LayerSettings, inputs: AxisNames, dense: AxisNames) -> None:
        """Build the first layer, which reads `inputs`, and all above it; cross layers read `dense`."""
        widths, labels, count = settings.hidden, tuple(self.labels), self.members
        self.first = (
            name_axes(nn.Linear(len(inputs), widths[0]), weight=(None, inputs))
            if count is None
            else MemberLinear(count, inputs, widths[0], first=True)
        )
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None
        self.hidden = nn.ModuleList(
            nn.Linear(a, b) if count is None else MemberLinear(count, a, b) for a, b in pairwise(widths)
        )
        self.dcn = Dcn(settings.dcn, dense) if settings.dcn else None
        beside = dense if settings.dcn else ()
        read = join([number(f"hidden of {widths[-1]}", widths[-1]), beside])
        self.heads: nn.Linear | MemberHeads | ExpertHeads
        if settings.experts is not None:
            self.heads = ExpertHeads(settings, settings.experts, widths[-1], beside)
        elif count is not None:
            self.heads = MemberHeads(count, read, labels)
        else:
            self.heads = name_axes(nn.Linear(len(read), len(labels)), weight=(labels, read), bias=(labels,))

    def _embedded(self, placement: Placement) -> AxisNames:
        """The names of the embedded numbers of a placement."""
        return cast(NumberEmbedding, self.numbers[placement]).outputs if placement in self.numbers else ()

    def _read(self, placement: Placement, x: Tensor) -> Tensor:
        """What the first layer reads of a placement: its dense input and embedded numbers, gated."""
        if placement in self.numbers:
            x = torch.cat((x, self.numbers[placement](x)), 1)
        return self.gates[placement](x) if placement in self.gates else x

    def forward(self, inputs: StageInputs) -> StageOutput:
        # autograd adds up an input's gradients in this order, and training must not change in the last bit
        """Score all candidates: logits (C',) by label."""
        products = self.pair_products(inputs)
        crossed = None if self.dcn is None else self.dcn(inputs)
        first = inputs.pairs.sum(*self.sides(inputs.query, inputs.item))
        for x, weight in products:
            # in place: a pass over (C', h) to add what a product of few columns gave takes longer than the product
            first.addmm_(x, weight.t())
        return self.above(first, crossed)

    def sides(self, query: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's sums over the query, bias included, and over the item: (R, h), (I', h)."""
        of_query, of_item, _ = self._split(query)
        bias = self.first.bias.flatten().to(query.dtype)
        query, item = self._read("query", query), self._read("item", item)
        return functional.linear(query, of_query, bias), functional.linear(item, of_item)

    def pair_products(self, inputs: StageInputs) -> list[Product]:
        """What belongs to the pair, of several sorts, and the first layer's weights of it."""
        products = []
        if self.widths[2]:
            of_pair = _join(self._read("snapshot", inputs.snapshot), self._read("cross", inputs.cross))
            products.append((of_pair, self._split(of_pair)[2]))
        if self.din is not None and inputs.history is not None:
            interest = self.din(self.target(inputs.item), inputs.history, self.event)
            products.append(self.product(inputs.pairs.fill(interest).to(inputs.cross.dtype), self.interest))
        if self.earlier is not None and inputs.earlier is not None:
            products.append(self.product(inputs.earlier, self.earlier))
        return products

    def product(self, x: Tensor, layer: nn.Linear) -> Product:
        """The factors of a linear layer without bias, in the precision of its input; all members share it."""
        weight = layer.weight.to(x.dtype)
        return x, weight if self.members is None else weight.repeat(self.members, 1)

    def _split(self, like: Tensor) -> tuple[Tensor, ...]:
        weight = self.first.stacked() if isinstance(self.first, MemberLinear) else self.first.weight
        return torch.split(weight.to(like.dtype), self.widths, dim=1)

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of items and of candidates; the whole one if nothing is computed ahead."""
        if not self.ahead:
            return super().graphs()
        parts = (ITEM,) if self.din is None else (ITEM, TARGET)
        others = ("query", "cross", "event", "mask", "ages", "earlier")
        return {
            "item": Graph(ItemGraph(self, self.record_parts), ("item", "snapshot"), parts),
            "value": Graph(
                PartsGraph(self, self.score_parts), (*(PART + name for name in parts), *others), ("logits",)
            ),
        }

    def record_parts(self, item: Tensor, snapshot: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """What serving keeps of items: the first layer's sums over row and snapshot (N, h), the targets (N, w)."""
        _, of_item, of_pair = self._split(item)
        sums = functional.linear(self._read("item", item), of_item)
        if snapshot is not None:
            of_snapshot, _ = torch.split(of_pair, self.pair_widths, dim=1)
            sums = sums + functional.linear(self._read("snapshot", snapshot), of_snapshot)
        return sums if self.din is None else (sums, self.target(item))

    def score_parts(self, given: Mapping[str, Tensor]) -> Tensor:
        """Score one request's candidates from their item parts: (n, labels)."""
        query = given["query"]
        of_query, _, of_pair = self._split(query)
        first = given[PART + ITEM] + functional.linear(
            self._read("query", query), of_query, self.first.bias.flatten()
        )
        if "cross" in given:
            _, of_cross = torch.split(of_pair, self.pair_widths, dim=1)
            first = first + functional.linear(self._read("cross", given["cross"]), of_cross)
        if self.din is not None:
            history = SingleRequestHistory(given["event"], given["mask"], given.get("ages"))
            interest = self.din(given[PART + TARGET], history, self.event)
            first = first + functional.linear(*self.product(interest, self.interest))
        if self.earlier is not None:
            first = first + functional.linear(*self.product(given["earlier"], self.earlier))
        if self.members is None:
            return self._logits(first, None)
        return torch.stack(list(self.above(first).logits.values()), dim=1)

    def above(self, first: Tensor, crossed: Tensor | None = None) -> StageOutput:
        """Logits (C',) from the first layer's sums (C', h), and from the crossed inputs (C', W)."""
        if self.members is not None:
            return self._above_members(first.unflatten(1, (self.members, -1)), crossed)
        return StageOutput(dict(zip(self.labels, self._logits(first, crossed).unbind(1), strict=True)))

    def _logits(self, first: Tensor, crossed: Tensor | None) -> Tensor:
        """What `above` gives without members: (C', labels)."""
        x = self._activate(first)
        hidden = cast(Sequence[nn.Linear], self.hidden)
        x = activated_layers(x, hidden, self.activation, self.dropout if self.training else 0.0)
        if isinstance(self.heads, ExpertHeads):
            logits: Tensor = self.heads(x, crossed)
        else:
            read = x if crossed is None else torch.cat((x, crossed), 1)
            logits = linear(read, cast(nn.Linear, self.heads))
        return logits.float()

    def _above_members(self, first: Tensor, crossed: Tensor | None) -> StageOutput:
        """The same of all members, from (C', k, ·), each on its own."""
        x = self._activate(first)
        for layer in self.hidden:
            x = ACTIVATIONS[self.activation](layer(x))
            x = functional.dropout(x, self.dropout, self.training)
        logits: Tensor = self.heads(x, crossed).float()
        members = dict(zip(self.labels, logits.unbind(2), strict=True))
        return StageOutput({label: average_members(z) for label, z in members.items()}, members=members)

    def _activate(self, first: Tensor) -> Tensor:
        """What comes of the first layer's sums: normalised, activated, with dropout."""
        if self.norm is not None:
            first = self.norm(first.float()).to(first.dtype)
        return functional.dropout(ACTIVATIONS[self.activation](first), self.dropout, self.training)


def _join(snapshot: Tensor, cross: Tensor) -> Tensor:
    """What a candidate has of its own, side by side: (C', ·). Nothing is copied where there is only one of both."""
    parts = [part for part in (snapshot, cross) if part.shape[1]]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
