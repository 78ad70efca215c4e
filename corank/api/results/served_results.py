"""The result of `compare_served`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.api.results.document_result import PlottedResult, frame
from corank.api.results.evaluation_results import DIFFERENCES
from corank.core.extras import name_missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEQUENTIAL = {
    **dict.fromkeys(("role", "figure"), pl.String),
    **dict.fromkeys(("a", "b", "difference", "low", "high", "p", "fixed_low", "fixed_high"), pl.Float64),
    "verdict": pl.String,
}


class ServedComparisonResult(PlottedResult):
    """A canary and a shadow compared with the live version, by the log of what was served.

    Example:
        >>> corank.compare_served("nowhere")
        Traceback (most recent call last):
        corank.core.errors.DataError: nowhere: no served requests here; `corank serve --log nowhere` writes them
    """

    @property
    def headline(self) -> str:
        """The compared versions, and the verdicts."""
        parts = [f"{part['a']} less {part['b']}: {part['verdict']}" for _, part in self._parts()]
        return "; ".join(parts)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`sequential`: differences with intervals that hold at every look; `differences`: metrics by stage."""
        sequential, differences = list[dict[str, Any]](), list[dict[str, Any]]()
        for role, part in self._parts():
            for figure, comparison in part["sequential"].items():
                facts = {name: comparison.get(name) for name in SEQUENTIAL if name not in ("role", "figure")}
                sequential.append({"role": role, "figure": figure, **facts})
            for stage, populations in part["stages"].items():
                for label, metrics in populations["exposed"].items():
                    key = {"role": role, "stage": stage, "population": "exposed", "label": label}
                    differences += [{**key, "metric": metric, **delta} for metric, delta in metrics.items()]
        return {
            "sequential": frame(sequential, SEQUENTIAL),
            "differences": frame(differences, {"role": pl.String, **DIFFERENCES}),
        }

    def plot(self) -> "Figure":
        """Draw the differences with the intervals that hold at every look, one panel a figure."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        panels = {
            f"{role}: {figure}": {"a - b": (comparison["difference"], comparison["low"], comparison["high"])}
            for role, part in self._parts()
            for figure, comparison in part["sequential"].items()
            if comparison["difference"] is not None
        }
        return draw_bounded(panels, from_zero=True)

    def _parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((name, part) for name in ("canary", "shadow") if (part := self.document[name]) is not None)
