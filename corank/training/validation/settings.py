"""The section `validation` of a config: how far new rows may be from those that a run was trained on."""

from typing import Annotated

from annotated_types import Gt, Interval
from pydantic import PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings, describe_unknown

Factor = Annotated[float, Gt(1)]
"""How many times as much, or how many times less."""
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
"""A difference of two shares."""


class ValidationSettings(Settings):
    """How far new rows may be from those of the run they are compared with; null: that is not judged.

    Example:
        validation: {rows: 3, psi: null, unjudged: [upload_day]}
    """

    columns: bool = True
    """Whether a column that is missing, added or of another type is refused."""
    rows: Factor | None = 1.6
    """The new candidates may be this many times those of earlier periods of the same length, or as many times fewer."""
    levels: Factor | None = 2.0
    """A level's share of the candidates, likewise."""
    labels: Factor | None = 1.5
    """A label's rate among the exposed candidates whose label is known, likewise."""
    missing: PositiveShare | None = 0.1
    """How much the share of candidates without a value may change, of each feature."""
    new_ids: PositiveShare | None = 0.2
    """How much higher the share of values that the run does not know may be than after its training ended."""
    psi: Annotated[float, Gt(0)] | None = 0.25
    """The population stability index of each feature, at most."""
    min_count: PositiveInt = 100
    """Shares and rates are judged if so many candidates, or positives, are expected: those of fewer vary by chance."""
    unjudged: list[str] = []
    """Features whose new ids and PSI are shown, and refuse nothing: such as those that move on with time."""

    def check(self, features: list[str]) -> None:
        """Raise ConfigError if `unjudged` names what is no feature."""
        for name in self.unjudged:
            if name not in features:
                raise ConfigError(f"validation.unjudged: {describe_unknown(name, features, 'feature')}")
