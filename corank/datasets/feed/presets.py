"""The presets of the simulated feed. They load nothing, since `corank --help` names them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Production's knowledge of the truth. Fixed before any study was run: a change makes its results invalid."""

    correlation: float
    """Pearson's correlation of production's scores with the true logit, over retrieved candidates."""
    hidden: float = 0.0
    """Standard deviation, in logits, of the effect of a request's intent on an item. Production knows it and clicks
    follow it, but it is not logged; the effects of an item average to zero over intents."""


PRESETS = {
    "weak": Preset(correlation=0.3),
    "medium": Preset(correlation=0.6),
    "strong": Preset(correlation=0.85),
    "hidden": Preset(correlation=0.6, hidden=0.8),
}
"""The same seed gives the same users, items and tastes in all presets."""
