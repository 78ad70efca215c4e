"""Settings of an encoder of a history's events."""

from typing import Annotated

from annotated_types import Le
from pydantic import PositiveInt

from corank.core.settings import Settings


class SequenceEncoderSettings(Settings):
    """Causal self-attention over the events of a history (HSTU), computed once a request for all its candidates."""

    layers: Annotated[PositiveInt, Le(16)] = 2
    """Layers, one on the other."""
    heads: PositiveInt = 2
    """Attentions of each layer, side by side."""
    dim: PositiveInt = 16
    """Width of a head."""
    ages: bool = False
    """Whether the time between an event and the request counts; a request must give the times of its events then."""
