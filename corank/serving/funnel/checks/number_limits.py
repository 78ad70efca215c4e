"""Counts the numbers of a request that lie outside the range of training, to which their encoders clip them."""

from collections.abc import Iterable, Mapping
from typing import Any

from corank.features.encoders import Encoders
from corank.features.feature_kind import Side


class NumberLimits:
    """The ranges of training of one bundle's numbers, by side and column."""

    def __init__(self, encoders: Encoders) -> None:
        schema = encoders.schema
        self._limits: dict[Side, dict[str, tuple[float, float]]] = {}
        for name, feature in schema.columns().items():
            encoder = encoders.fitted.get(name)
            if feature.is_input and encoder is not None and encoder.limits is not None:
                self._limits.setdefault(feature.side, {})[schema.column(name)] = encoder.limits

    def count(self, sides: Iterable[Side], rows: Iterable[Mapping[str, Any]], found: dict[str, int]) -> None:
        """Add to `found`, by `SIDE.COLUMN`, the numbers of rows of some sides that are clipped."""
        for row in rows:
            for side in sides:
                for column, (low, high) in self._limits.get(side, {}).items():
                    value: Any = row.get(column)
                    if type(value) in (int, float) and not low <= value <= high:
                        name = f"{side}.{column}"
                        found[name] = found.get(name, 0) + 1
