"""Settings of export: the precision of what is stored of every item, and what that may cost."""

from collections.abc import Collection
from typing import Annotated

from annotated_types import Ge, Le

from corank.core.errors import ConfigError
from corank.core.matrices.stored_matrix import Precision
from corank.core.settings import Settings, describe_unknown

Share = Annotated[float, Ge(0), Le(1)]
RECALL_LOSS, PROBABILITY_LOSS = 0.01, 0.002
"""Bounds that hold where none are set."""


class ExportSettings(Settings):
    """How a bundle stores what is computed of every item ahead of requests.

    Example:
        export: {precision: {prerank.vector: fp16}, max_recall_loss: 0.005}
    """

    precision: dict[str, Precision] = {}
    """By `STAGE.PART`, how its numbers are stored: `fp32`, `fp16`, or `int8` with a scale an item; else fp32."""
    max_recall_loss: Share | None = None
    """The largest share of a stage's kept candidates that a lower precision may change on logged requests; 0.01 by
    default."""
    max_probability_loss: Share | None = None
    """By how much a lower precision may change a calibrated probability on logged requests; 0.002 by default."""

    @property
    def lowered(self) -> dict[str, Precision]:
        """The parts that are stored in less than fp32."""
        return {name: precision for name, precision in self.precision.items() if precision != "fp32"}

    def of(self, stage: str) -> dict[str, Precision]:
        """By part of a stage, its precision if that is less than fp32."""
        parts = (name.partition(".") for name in self.lowered)
        return {part: self.lowered[f"{name}.{part}"] for name, _, part in parts if name == stage}

    @property
    def recall_bound(self) -> float:
        """The largest loss of recall."""
        return RECALL_LOSS if self.max_recall_loss is None else self.max_recall_loss

    @property
    def probability_bound(self) -> float:
        """The largest change of a probability."""
        return PROBABILITY_LOSS if self.max_probability_loss is None else self.max_probability_loss

    def check(self, parts: Collection[str]) -> None:
        """Raise ConfigError if the stages store no such part, or a bound has no effect.

        Args:
            parts: `STAGE.PART` of every part.
        """
        for name in self.precision:
            if not parts:
                raise ConfigError(
                    f"export.precision.{name}: no stage stores anything of an item ahead of requests; take it away"
                )
            if name not in parts:
                raise ConfigError(f"export.precision: {describe_unknown(name, parts, 'item part')}")
        for key in ("max_recall_loss", "max_probability_loss"):
            if getattr(self, key) is not None and not self.lowered:
                raise ConfigError(
                    f"export.{key}: every part is stored in fp32, which loses nothing; take it away, or name a part "
                    "under export.precision"
                )
