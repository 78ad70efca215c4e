"""The smallest differences of metrics that a comparison reports: one number for all, or one by metric."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from corank.core.errors import DataError


@dataclass(frozen=True)
class Margins:
    """How large a difference must be to count, in the unit of the metric."""

    default: float = 0.0
    by_metric: Mapping[str, float] = field(default_factory=dict)
    """That of some metrics, such as `click_recall@50`."""

    @classmethod
    def read(cls, given: Iterable[str]) -> Self:
        """Read `NUMBER` and `METRIC=NUMBER`. Raises DataError for what is neither, or below 0."""
        default, by_metric = 0.0, dict[str, float]()
        for text in given:
            metric, equals, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not 0 <= value < float("inf") or bool(equals) != bool(metric):
                raise DataError(f"--margin: expected NUMBER or METRIC=NUMBER, 0 or more; received {text!r}")
            if metric:
                by_metric[metric] = value
            else:
                default = value
        return cls(default, by_metric)

    def of(self, metric: str) -> float:
        """The margin of a metric."""
        return self.by_metric.get(metric, self.default)

    def document(self) -> dict[str, float]:
        """All margins by metric; that of all others is `all`."""
        return {"all": self.default, **self.by_metric}

    def require_metrics(self, compared: Iterable[str]) -> None:
        """Raise DataError if a metric is named that was not compared."""
        names = list(dict.fromkeys(compared))
        for metric in self.by_metric:
            if metric not in names:
                raise DataError(f"--margin: no metric '{metric}' was compared; there are {', '.join(names)}")
