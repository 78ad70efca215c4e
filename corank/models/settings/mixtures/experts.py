"""Settings of experts, which the labels of a network share."""

from typing import Annotated, Self

from annotated_types import Ge, Le
from pydantic import PositiveInt, model_validator

from corank.core.settings import Settings


class ExpertSettings(Settings):
    """Experts above the hidden layers, each a layer, which a gate a label mixes: MMoE; with some of its own, PLE."""

    shared: Annotated[int, Ge(1), Le(64)] = 4
    """Experts that all labels mix."""
    own: Annotated[int, Ge(0), Le(64)] = 0
    """Experts besides these that each label alone mixes; of several labels only."""
    width: PositiveInt = 64
    """Of each expert."""
    levels: Annotated[int, Ge(1), Le(8)] = 1
    """Levels of experts, one above the other. Shared experts read what all experts of the level below say, a label's
    own ones and its gate its mixture there."""

    @model_validator(mode="after")
    def _mix_several(self) -> Self:
        if self.shared + self.own < 2:
            raise ValueError(
                "of one expert there is nothing to mix; write `shared: 2` or more, or `own`; received shared: 1"
            )
        return self
