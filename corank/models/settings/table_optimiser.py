"""Settings of the optimiser of embedding tables."""

from typing import Annotated, Literal, Self

from annotated_types import Gt, Le
from pydantic import PositiveFloat, model_validator

from corank.core.settings import Settings


class TableOptimiser(Settings):
    """How the embedding tables learn; only rows of the batch are touched."""

    optimiser: Literal["rowwise_adagrad", "lazy_adam"] = "rowwise_adagrad"
    """A learning rate that falls by row, or Adam on the rows of the batch."""
    lr: PositiveFloat = 0.05
    """Learning rate."""
    decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Of rowwise_adagrad: what is left of a row's sum of squared gradients at each update of the row. At 1 sums only
    grow, and with them the rate of frequent rows falls for good: write less, such as 0.999, if runs continue others."""

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        if self.decay < 1 and self.optimiser != "rowwise_adagrad":
            raise ValueError(f"decay has no effect with {self.optimiser}; drop it")
        return self
