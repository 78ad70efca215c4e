"""The results of `evaluate` and `compare`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.api.results.document_result import PlottedResult, frame
from corank.core.extras import name_missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BOUNDED = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
STAGES = {"stage": pl.String, "population": pl.String, "label": pl.String, "metric": pl.String, **_BOUNDED}
CASCADE = {"metric": pl.String, **_BOUNDED, "random": pl.Float64, "requests": pl.Int64}
RELIABILITY = {
    "stage": pl.String,
    "label": pl.String,
    "bin": pl.Int64,
    **dict.fromkeys(("raw", "calibrated", "observed", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
DIFFERENCES = {
    **dict.fromkeys(("stage", "population", "label", "metric"), pl.String),
    **dict.fromkeys(("a", "b", "difference", "low", "high", "margin"), pl.Float64),
    "verdict": pl.String,
    "not_worse": pl.Boolean,
}
_NOT_METRICS = ("n", "eligible", "random")
_CALIBRATION = ("loss", "pcoc", "ece")
"""Parts of the names of metrics that measure no order."""


def _bounds(pair: Any) -> tuple[float | None, float | None]:
    return (None, None) if pair is None else (pair[0], pair[1])


def list_stage_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of each stage, population and label of an evaluation's document."""
    intervals = (document.get("interval") or {}).get("stages", {})
    for stage, populations in document["stages"].items():
        for population, labels in populations.items():
            for label, metrics in labels.items():
                known = intervals.get(stage, {}).get(population, {}).get(label, {})
                for metric, value in metrics.items():
                    if metric not in _NOT_METRICS:
                        low, high = _bounds(known.get(metric))
                        key = {"stage": stage, "population": population, "label": label, "metric": metric}
                        yield key | {"value": value, "low": low, "high": high}


def list_cascade_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of the cascade of an evaluation's document."""
    cascade = document["cascade"]
    if cascade is not None:
        intervals = (document.get("interval") or {}).get("cascade") or {}
        for metric, requests in cascade["eligible"].items():
            low, high = _bounds(intervals.get(metric))
            value, random = cascade[metric], cascade["random"][metric]
            yield dict(zip(CASCADE, (metric, value, low, high, random, requests), strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult(PlottedResult):
    """A run evaluated on a split.

    Example:
        >>> evaluation = corank.evaluate("shop/runs/shop")
        >>> evaluation.tables["stages"].columns
        ['stage', 'population', 'label', 'metric', 'value', 'low', 'high']
        >>> evaluation["stages"]["rank"]["exposed"]["click"]["auc"] > 0.4
        True
    """

    @property
    def headline(self) -> str:
        """Split, requests and candidates."""
        document = self.document
        return (
            f"{document['split']}: {document['requests']:,} requests, {document['candidates']:,} candidates"
        )

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages`: metrics with intervals; `cascade`: those of the stages together; `reliability`: bins."""
        reliability = [
            {"stage": stage, "label": label, "bin": n, **bin_}
            for stage, labels in self.document["reliability"].items()
            for label, bins in labels.items()
            for n, bin_ in enumerate(bins or [])
        ]
        return {
            "stages": frame(list(list_stage_rows(self.document)), STAGES),
            "cascade": frame(list(list_cascade_rows(self.document)), CASCADE),
            "reliability": frame(reliability, RELIABILITY),
        }

    def plot(self) -> "Figure":
        """Draw the metrics of order of every stage, on the exposed candidates, with their intervals."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        panels: dict[str, dict[str, Any]] = {}
        for row in list_stage_rows(self.document):
            orders = not any(part in row["metric"] for part in _CALIBRATION)
            if row["population"] == "exposed" and orders and row["value"] is not None:
                name = f"{row['label']} {row['metric']}"
                panels.setdefault(row["stage"], {})[name] = (row["value"], row["low"], row["high"])
        return draw_bounded(panels, from_zero=False)


@dataclass(frozen=True, eq=False, repr=False)
class GroupsResult(PlottedResult):
    """A run evaluated group by group, such as by day.

    Example:
        >>> corank.evaluate("shop/runs/shop", by="day").tables["stages"].columns[:3]
        ['group', 'stage', 'population']
    """

    @property
    def headline(self) -> str:
        """Split, by what, and how many groups."""
        document = self.document
        return f"{document['split']} by {document['by']}: {len(document['groups']):,} groups"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages` and `cascade`, with the column `group` in front."""
        named = [(str(group["name"]), group) for group in self.document["groups"]]
        stages = [{"group": name, **row} for name, group in named for row in list_stage_rows(group)]
        cascade = [{"group": name, **row} for name, group in named for row in list_cascade_rows(group)]
        return {
            "stages": frame(stages, {"group": pl.String} | STAGES),
            "cascade": frame(cascade, {"group": pl.String} | CASCADE),
        }

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw a metric of every stage, group by group, on the exposed candidates."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        rows = self.tables["stages"].filter(
            pl.col("metric") == metric, pl.col("population") == "exposed", pl.col("value").is_not_null()
        )
        panels: dict[str, dict[str, Any]] = {}
        for row in rows.iter_rows(named=True):
            panel = panels.setdefault(f"{row['stage']} {row['label']} {metric}", {})
            panel[row["group"]] = (row["value"], row["low"], row["high"])
        return draw_bounded(panels, from_zero=False)


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult(PlottedResult):
    """Two runs, or two tables of scores, compared on the same candidates.

    Example:
        >>> comparison = corank.compare("shop/runs/shop", "shop/runs/shop")
        >>> set(comparison.tables["differences"]["verdict"])
        {'no difference shown'}
    """

    @property
    def headline(self) -> str:
        """What was compared."""
        document = self.document
        return f"{document['a']} less {document['b']}: {document['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`differences`: values `a` and `b`, their difference with its interval, and the verdict; cuts and cascade,
        too, under the stage `cut NAME` and `cascade`."""
        return {"differences": frame(list(self._rows()), DIFFERENCES)}

    def plot(self) -> "Figure":
        """Draw the differences of every stage on the exposed candidates, and of the cascade if no stage has any."""
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bounded

        panels: dict[str, dict[str, Any]] = {}
        rows = list(self._rows())
        for row in [row for row in rows if row["population"] == "exposed"] or rows:
            name = f"{row['label'] or ''} {row['metric']}".strip()
            panels.setdefault(row["stage"], {})[name] = (row["difference"], row["low"], row["high"])
        return draw_bounded(panels, from_zero=True)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for stage, populations in self.document["stages"].items():
            for population, labels in populations.items():
                for label, metrics in labels.items():
                    key = {"stage": stage, "population": population, "label": label}
                    yield from ({**key, "metric": metric, **figure} for metric, figure in metrics.items())
        others = {f"cut {name}": cut for name, cut in self.document.get("cuts", {}).items()}
        for stage, metrics in (others | {"cascade": self.document.get("cascade") or {}}).items():
            key = {"stage": stage, "population": None, "label": None}
            yield from ({**key, "metric": metric, **figure} for metric, figure in metrics.items())
