"""Settings of cross layers."""

from pydantic import PositiveInt

from corank.core.settings import Settings


class DcnSettings(Settings):
    """Cross layers next to the deep ones."""

    layers: PositiveInt = 2
    """Cross layers, one after another."""
    rank: PositiveInt | None = None
    """Width of a bottleneck in each layer's W × W matrix; none unless given."""
