"""Settings of gates of features."""

from pydantic import PositiveInt

from corank.core.settings import Settings


class GateSettings(Settings):
    """A factor for each feature, learnt of its side's inputs."""

    hidden: PositiveInt = 16
    """Width of the layer between a side's inputs and its gates."""
