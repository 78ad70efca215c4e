"""A teacher: an MLP that also sees what production scored, which nobody has once production is replaced.

It is trained and teaches (`distill`), but is no stage of the cascade: neither evaluated there nor shipped. What
production's score is worth on top of the features it learns from clicks, so it carries over to candidates that were
never shown as far as clicks confirm it. Source: privileged features distillation, Xu et al., KDD 2020.

Letters: C candidates · C' candidates of a batch, rounded up · s logged scores · h first width.
"""

import torch
from torch import nn

from corank.features.input_layout import Layout
from corank.models.inputs.named_axes import name_axes
from corank.models.mlp import Mlp, Product
from corank.models.settings.teacher import TeacherSettings
from corank.models.stage_io import StageInputs


class Teacher(Mlp):
    """The network of a teacher."""

    def __init__(self, settings: TeacherSettings, layout: Layout) -> None:
        super().__init__(settings, layout)
        self.scores = settings.scores
        read = (*settings.scores, *(f"{score} missing" for score in settings.scores))
        self.scored = name_axes(nn.Linear(len(read), settings.hidden[0], bias=False), weight=(None, read))

    def pair_products(self, inputs: StageInputs) -> list[Product]:
        """The products of an MLP, and one of the logged scores."""
        scores = torch.stack([inputs.scores[name] for name in self.scores], dim=1)
        seen = inputs.pairs.fill(torch.cat((scores.nan_to_num(), scores.isnan().float()), dim=1))
        return [self.product(seen.to(inputs.cross.dtype), self.scored), *super().pair_products(inputs)]
