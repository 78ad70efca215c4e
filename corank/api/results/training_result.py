"""The result of `train`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from corank.api.results.document_result import frame, show_tables
from corank.core.extras import name_missing_extra
from corank.training.run import Run
from corank.training.warm_start.origin import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrainResult:
    """A finished training, and its run.

    Example:
        >>> result = corank.train("shop/config.yaml", resume=True)
        >>> result.epoch, str(result.run.folder), result.tables["metrics"].columns
        (2, 'shop/runs/shop', ['epoch', 'stage', 'label', 'metric', 'value'])
    """

    run: Run
    """The folder, the config, and what can be read of them."""
    epoch: int
    """Whose weights the trained model has, counted from 1."""
    history: Sequence[Mapping[str, float | None]]
    """The validation metrics of every epoch, by `STAGE.LABEL.METRIC`; empty without a split `valid`."""

    @classmethod
    def of(cls, run: Run, facts: Mapping[str, Any]) -> Self:
        """The result of a run, from the facts of its trained model."""
        return cls(run, facts["epoch"], facts["figures"])

    @property
    def origin(self) -> Origin | None:
        """The run whose weights it took over, and what was carried over, began fresh or is gone; None without one."""
        return self.run.origin

    @property
    def metrics(self) -> dict[str, float | None]:
        """The validation metrics of the epoch that was kept, by `STAGE.LABEL.METRIC`."""
        return dict(self.history[self.epoch - 1])

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`metrics`: a row an epoch and metric; `carried`: a row a part of the run whose weights it took over."""
        rows = [
            {"epoch": n, "stage": stage, "label": label, "metric": metric, "value": value}
            for n, figures in enumerate(self.history, start=1)
            for name, value in figures.items()
            for stage, label, metric in [_split(name)]
        ]
        texts = dict.fromkeys(("stage", "label", "metric"), pl.String)
        frames = {"metrics": frame(rows, {"epoch": pl.Int64, **texts, "value": pl.Float64})}
        if self.origin is not None:
            parts = [part.model_dump() for part in self.origin.parts]
            frames["carried"] = frame(parts, dict.fromkeys(("part", "name", "state", "note"), pl.String))
        return frames

    def plot(self) -> "Figure":
        """Draw the validation metrics by epoch: a plot a metric, a line a stage and label. Returns a figure.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """
        with name_missing_extra("plot()"):
            from corank.analysis import plots
            from corank.api.results.figures import draw_figure

        panels: dict[str, dict[str, plots.Series]] = {}
        known = self.tables["metrics"].drop_nulls("value")
        for (stage, label, metric), rows in known.group_by("stage", "label", "metric", maintain_order=True):
            epochs, values = rows["epoch"].to_numpy(), rows["value"].to_numpy()
            panels.setdefault(str(metric), {})[f"{stage} {label}"] = plots.Series(
                epochs.astype(np.int64), values
            )
        rows_of_plots = max(plots.plot_rows(len(panels)), 1)
        return draw_figure(
            lambda figure: plots.small_plots(figure, panels, "epoch", markers=True) if panels else None,
            height=0.6 + 2.0 * rows_of_plots,
        )

    def to_json(self) -> str:
        """The run's folder, the epoch that was kept and its metrics, and what it took over, as JSON text."""
        document = {"run": str(self.run.folder), "epoch": self.epoch, "metrics": self.metrics}
        if self.origin is not None:
            document["from"] = self.origin.model_dump()
        return json.dumps(document, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        kept = self.tables["metrics"].filter(pl.col("epoch") == self.epoch, pl.col("value").is_not_null())
        table = kept.pivot("metric", index=["stage", "label"], values="value") if len(kept) else kept
        return show_tables(f"{self.run.folder}: kept epoch {self.epoch}", {"validation": table})


def _split(name: str) -> tuple[str, str, str]:
    """`STAGE.LABEL.METRIC` in its parts."""
    stage, _, rest = name.partition(".")
    label, _, metric = rest.rpartition(".")
    return stage, label, metric
