"""Settings of how an MLP reads numbers besides their scaled values."""

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, PositiveFloat, PositiveInt

from corank.core.settings import Settings


class PiecewiseNumbers(Settings):
    """Each number as its shares of bins between quantiles of the training rows."""

    kind: Literal["piecewise"]
    bins: Annotated[int, Ge(2), Le(256)] = 16
    """Bins of a number, at most: quantiles closer than .01 of the scaled unit are one edge."""
    dim: PositiveInt | None = None
    """Width of an embedding of each number's shares, relu(E p + b); unless given, the shares enter the first layer."""


class PeriodicNumbers(Settings):
    """Each number as sines and cosines of learnt frequencies, embedded."""

    kind: Literal["periodic"]
    frequencies: PositiveInt = 16
    """Of each number."""
    sigma: PositiveFloat = 0.1
    """Standard deviation of the frequencies at first, in periods a scaled unit."""
    dim: PositiveInt = 8
    """Width of each number's embedding, relu(E [sin, cos] + b)."""


Numbers = Annotated[PiecewiseNumbers | PeriodicNumbers, Field(discriminator="kind")]
