"""A teacher: an MLP that also sees what production scored, which nobody has once production is replaced.

It is trained and teaches (`distill`), but is no stage of the cascade: neither evaluated there nor shipped. What
production's score is worth beside the features it learns from clicks, so it carries over to candidates that were
never shown as far as clicks bear it out. Source: privileged features distillation, Xu et al., KDD 2020.

Letters: C candidates · C' candidates of a batch, rounded up · s logged scores · h first width.
"""

from typing import Annotated

import torch
from annotated_types import MinLen
from torch import nn

from corank.core.errors import ConfigError
from corank.core.settings import describe_unknown
from corank.features.input_layout import Layout
from corank.models.inputs.named_axes import name_axes
from corank.models.mlp import Mlp, Product, product
from corank.models.settings import LayerSettings
from corank.models.stage_context import StageContext
from corank.models.stage_io import StageInputs


class TeacherSettings(LayerSettings):
    """Settings of a teacher."""

    scores: Annotated[list[str], MinLen(1)]
    """The logged scores (`data.scores`) that it sees beside every feature; a missing one counts as 0, and is marked."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as a score that is not logged."""
        super().check(context)
        for score in self.scores:
            if score not in context.data.scores:
                raise ConfigError(
                    f"{context.key}.scores: {describe_unknown(score, context.data.scores)}, as data.scores names them"
                )


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
        return [product(seen.to(inputs.cross.dtype), self.scored), *super().pair_products(inputs)]
