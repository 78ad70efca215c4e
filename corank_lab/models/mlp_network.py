"""Network of stage model `mlp_lab`: an MLP that may embed numbers, gate features, have members or experts, and encode
the history that it attends to.

With members the first layer's sums are those of all members side by side. Experts stand above the hidden layers.

Letters: C' candidates of a batch, rounded up · h units of the first layer, of all members · W width of all dense inputs
· k members.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.core.types import Floats
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Layout
from corank.models.attention import Din
from corank.models.layers import ACTIVATIONS
from corank.models.mlp import Mlp, Product
from corank.models.named_axes import AxisNames, number
from corank.models.settings.mlp import LayerSettings
from corank.models.stage_io import StageOutput
from corank_lab.models.inputs import FeatureGates, PiecewiseEmbedding, embed_numbers
from corank_lab.models.mixtures import ExpertHeads, MemberHeads, MemberLinear, average_members
from corank_lab.models.mlp import EncodedDinSettings, MlpLabSettings
from corank_lab.models.sequence_encoder import EncodedDin, SequenceEncoder


class MlpLab(Mlp):
    """Logits by label of an MLP over query, item and pair, and any other inputs."""

    members: int | None

    def build_inputs(self, settings: LayerSettings, layout: Layout) -> dict[Placement, AxisNames]:
        """Build the embeddings of numbers and the gates, by placement."""
        assert isinstance(settings, MlpLabSettings)
        self.members = settings.members
        embedded = {placement: embed_numbers(settings.numbers, layout, placement) for placement in PLACEMENTS}
        self.numbers = nn.ModuleDict({p: numbers for p, numbers in embedded.items() if numbers is not None})
        read = {
            placement: (*names, *(() if (numbers := embedded[placement]) is None else numbers.outputs))
            for placement, names in super().build_inputs(settings, layout).items()
        }
        self.gates = nn.ModuleDict(
            {
                placement: FeatureGates(
                    names, [name.partition("[")[0] for name in names], settings.gates.hidden
                )
                for placement, names in read.items()
                if settings.gates is not None and names
            }
        )
        return read

    def build_layer(self, inputs: AxisNames | int, outputs: int) -> nn.Module:
        """As `Mlp.build_layer`, of all members."""
        if self.members is None:
            return super().build_layer(inputs, outputs)
        return MemberLinear(self.members, inputs, outputs, first=not isinstance(inputs, int))

    def build_heads(self, settings: LayerSettings, crossed: AxisNames) -> nn.Module:
        """As `Mlp.build_heads`, of all members or with experts."""
        assert isinstance(settings, MlpLabSettings)
        width = settings.hidden[-1]
        if settings.experts is not None:
            return ExpertHeads(settings, settings.experts, width, crossed)
        if self.members is None:
            return super().build_heads(settings, crossed)
        read = (*number(f"hidden of {width}", width), *crossed)
        return MemberHeads(self.members, read, tuple(settings.labels))

    def build_attention(self, settings: LayerSettings, items: AxisNames, own: AxisNames, last: int) -> Din:
        """As `Mlp.build_attention`, to encoded events if the settings say so."""
        assert isinstance(settings.din, EncodedDinSettings)
        if settings.din.encoder is None:
            return super().build_attention(settings, items, own, last)
        encoder = SequenceEncoder(settings.din.encoder, (*items, *own), last, self.dropout)
        return EncodedDin(settings.din, items, settings.activation, own, encoder)

    def fit_numbers(self, sample: Callable[[Placement], Floats]) -> None:
        """Learn the bins of numbers."""
        for placement, numbers in self.numbers.items():
            if isinstance(numbers, PiecewiseEmbedding):
                numbers.fit(sample(cast(Placement, placement)))

    def read(self, placement: Placement, x: Tensor) -> Tensor:
        """What the first layer reads of a placement: its dense input and embedded numbers, gated."""
        if placement in self.numbers:
            x = torch.cat((x, self.numbers[placement](x)), 1)
        return self.gates[placement](x) if placement in self.gates else x

    def first_weights(self) -> tuple[Tensor, Tensor]:
        """Those of all members, one below the other."""
        if not isinstance(self.first, MemberLinear):
            return super().first_weights()
        return self.first.stacked(), self.first.bias.flatten()

    def product(self, x: Tensor, layer: nn.Linear) -> Product:
        """As `Mlp.product`; all members share it."""
        x, weight = super().product(x, layer)
        return x, weight if self.members is None else weight.repeat(self.members, 1)

    def above(self, first: Tensor, crossed: Tensor | None = None) -> StageOutput:
        """As `Mlp.above`; of members the logits of each, from (C', k, ·), each on its own."""
        if self.members is None:
            return super().above(first, crossed)
        x = self.activate(first.unflatten(1, (self.members, -1)))
        for layer in self.hidden:
            x = ACTIVATIONS[self.activation](layer(x))
            x = functional.dropout(x, self.dropout, self.training)
        logits: Tensor = self.heads(x, crossed).float()
        members = dict(zip(self.labels, logits.unbind(2), strict=True))
        return StageOutput({label: average_members(z) for label, z in members.items()}, members=members)

    def logits(self, first: Tensor, crossed: Tensor | None = None) -> Tensor:
        """What `above` gives, side by side: (C', labels)."""
        if self.members is None:
            return super().logits(first, crossed)
        return torch.stack(list(self.above(first, crossed).logits.values()), dim=1)
