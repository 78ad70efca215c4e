"""The gradients of each loss of an update: their cosines, and their sum after projection.

Letters: L losses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from corank.models.joint import JointModel
from corank.models.tables.embedding import row_gradient

Gradient = list[Tensor | None]
"""Of each parameter, None where a loss does not reach it; of a table the values of the rows that the batch reads."""


@dataclass(frozen=True)
class LossGradients:
    """Gradients of each loss: of all tables, and of all layers."""

    names: Sequence[str]
    """Of the losses."""
    parameters: Mapping[str, Sequence[nn.Parameter]]
    """`tables` and `layers`."""
    of_losses: Mapping[str, Sequence[Gradient]]
    """Of each group of parameters the gradients of each loss."""
    rows: Mapping[nn.Parameter, Tensor]
    """The rows of each table that the batch reads."""

    @classmethod
    def of(cls, model: JointModel, losses: Mapping[str, Tensor]) -> Self:
        """Differentiate each loss by itself. The gradients that the parameters hold stay as they are.

        Args:
            model: whose outputs the losses were computed of; their graph is kept.
            losses: () each, by name, times their weights.
        """
        parameters = {
            "tables": list(model.tables.parameters()),
            "layers": list[nn.Parameter](model.layers(model.networks)),
        }
        every = [parameter for group in parameters.values() for parameter in group]
        rows: dict[nn.Parameter, Tensor] = {}
        of_losses: dict[str, list[Gradient]] = {group: [] for group in parameters}
        for loss in losses.values():
            found: Sequence[Tensor | None] = [None] * len(every)
            if loss.requires_grad:  # a loss may depend on no weight in some batch
                found = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
            by_parameter: dict[nn.Parameter, Tensor | None] = {}
            for parameter, gradient in zip(every, found, strict=True):
                if gradient is not None and gradient.is_sparse:
                    # all losses read a table by the same look-up, so the rows are the same
                    rows[parameter], gradient = gradient._indices()[0], gradient._values()
                by_parameter[parameter] = gradient
            for group, members in parameters.items():
                of_losses[group].append([by_parameter[parameter] for parameter in members])
        return cls(list(losses), parameters, of_losses, rows)

    def cosines(self) -> dict[str, Tensor]:
        """The cosine of each two losses' gradients in the weights that both reach, by `tables/A/B` or `layers/A/B`.

        NaN where a gradient is 0; two losses that share nothing are left out.
        """
        found = {}
        for group, gradients in self.of_losses.items():
            for (a, one), (b, other) in combinations(zip(self.names, gradients, strict=True), 2):
                if shared := _shared(one, other):
                    lengths = _dot((x, x) for x, _ in shared).sqrt() * _dot((y, y) for _, y in shared).sqrt()
                    found[f"{group}/{a}/{b}"] = _dot(shared) / lengths
        return found

    def set_projected(self, seed: Sequence[int]) -> None:
        """Set the gradients of all parameters to the sum of the losses' projected ones.

        Args:
            seed: of the orders in which a loss's gradient is projected by the others'.
        """
        generator = np.random.default_rng(seed)
        for group, gradients in self.of_losses.items():
            projected = []
            for n, gradient in enumerate(gradients):
                held = gradient
                for other in generator.permutation(len(gradients)):
                    if other != n:
                        held = project(held, gradients[other])
                projected.append(held)
            for n, parameter in enumerate(self.parameters[group]):
                reached = [part for of_loss in projected if (part := of_loss[n]) is not None]
                parameter.grad = self._as_gradient(parameter, reached)

    def _as_gradient(self, parameter: nn.Parameter, parts: Sequence[Tensor]) -> Tensor | None:
        """The sum of some losses' gradients of a parameter, None if there are none."""
        if not parts:
            return None
        total = torch.stack(list(parts)).sum(0)
        rows = self.rows.get(parameter)
        return total if rows is None else row_gradient(rows, total, parameter.shape)


def project(gradient: Gradient, other: Gradient) -> Gradient:
    """Remove from a gradient what points against another, in the weights that both reach."""
    shared = _shared(gradient, other)
    if not shared:
        return gradient
    square = _dot((y, y) for _, y in shared).clamp_min(torch.finfo(torch.float32).tiny)
    factor = _dot(shared).clamp_max(0) / square
    return [x if x is None or y is None else x - factor * y for x, y in zip(gradient, other, strict=True)]


def _shared(one: Gradient, other: Gradient) -> list[tuple[Tensor, Tensor]]:
    """The gradients of the parameters that both reach."""
    return [(x, y) for x, y in zip(one, other, strict=True) if x is not None and y is not None]


def _dot(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The scalar product of two gradients: ()."""
    return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in pairs]).sum()
