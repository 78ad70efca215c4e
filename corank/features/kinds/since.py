"""`kind: since`: how long ago the user's last event with a value was."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from corank.core.errors import ConfigError
from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS, FeatureSet, Use
from corank.features.history import EventAge
from corank.features.kinds.count import LIST_AND_VALUE
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import CrossFeature, ScaledFeature, Scaling


@FEATURE_KINDS.register("since")
class SinceFeature(ScaledFeature, CrossFeature):
    """How long ago the newest event of a history with a value, or one of the values, was; missing if there is none.

    The age is that at the request, also of a history that is frozen at the last multiple of its `every` before.
    """

    kind: Literal["since"] = "since"
    measure: EventAge = "time"
    """`time`: days before the request, fractions included; `events`: how many events of the history are newer."""

    default_scale: ClassVar[Scaling] = "log"
    operands_text: ClassVar[str] = "a history, or what its events or their items have, then an id or a list"
    compares: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    operand_uses: ClassVar[Sequence[Collection[Use]]] = LIST_AND_VALUE

    @property
    def aged_events(self) -> tuple[str, EventAge]:
        """Its first operand, and its `measure`."""
        return self.of[0], self.measure

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError if the first operand is of no history, or of one whose times are not known."""
        super().check(name, schema)
        events = schema.events_of(self.of[0])
        history = schema.histories().get(events)
        if history is None:
            raise ConfigError(
                f"features.{name}.of: a since is of {self.operands_text}; '{self.of[0]}' is a list without events; "
                "use kind count or contains"
            )
        if self.measure == "time" and not history.timed:
            raise ConfigError(
                f"features.{name}: the times of the events of '{events}' are not known; name the column that lists "
                f"them as features.{events}.times, or write measure: events, which tells how many events are newer"
            )

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Days or events, NaN for none: (N,)."""
        listed, sought = self.of
        return operands.newest(listed, sought, self.measure)
