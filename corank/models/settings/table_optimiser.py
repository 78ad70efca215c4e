"""Settings of the optimiser of embedding tables."""

from typing import Literal

from pydantic import PositiveFloat

from corank.core.settings import Settings


class TableOptimiser(Settings):
    """How the embedding tables learn; only rows of the batch are touched."""

    optimiser: Literal["rowwise_adagrad", "lazy_adam"] = "rowwise_adagrad"
    """A learning rate that falls by row, or Adam on the rows of the batch."""
    lr: PositiveFloat = 0.05
    """Learning rate."""
