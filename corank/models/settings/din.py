"""Settings of attention over a history."""

from pydantic import PositiveInt

from corank.core.settings import Settings
from corank.models.settings.sequence_encoder import SequenceEncoderSettings


class DinSettings(Settings):
    """Attention over the items of a history."""

    history: str
    """The feature whose items are attended to."""
    attributes: list[str] = []
    """Item features that take part besides the id, such as the brand, and of the events, such as the dwell."""
    hidden: PositiveInt = 36
    """Width of the layer that weighs an event for a candidate."""
    encoder: SequenceEncoderSettings | None = None
    """Encodes the events before they are attended to; none unless given."""
