"""The part of a report on the best candidates that stages cut, request by request.

Letters: R requests.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from corank.analysis.drawing import COLOURS
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Html, plot, text
from corank.analysis.report.run_figures import TO_LOG
from corank.core.types import Doubles
from corank.evaluation.measures import cascade_rows
from corank.metrics.bootstrap import interval
from corank.metrics.estimates.best_cut import cut_probability
from corank.metrics.inputs import Inputs
from corank.metrics.metric import METRICS

BINS = 40


class CutRequests(NamedTuple):
    """How likely each request lost its best candidate to a stage's cut."""

    probability: Doubles
    """Of the requests with more candidates than the stage keeps: (R,)."""
    mean: float
    observed: tuple[float, float, float] | None
    """The share of clicks that the stage cuts, by a random bucket, and its interval; None if it is not known."""


def best_cut_parts(evaluated: EvaluatedRun) -> list[Html]:
    """How likely each request lost its best candidate, a histogram a stage, or why there is none."""
    stages, rows = evaluated.run.config.stages, evaluated.predictions
    if len(stages) < 2 or rows.requests.size.max() <= min(stage.keep for stage in stages[:-1]):
        wanted = "requests of more candidates than a stage before the last keeps"
        return [text(f"None: it takes two stages, and {wanted}. {TO_LOG}")]
    cuts = _read_cuts(evaluated)
    last = stages[-1]
    caption = (
        "How likely each request lost its best candidate, the one that the user would choose of all: the share of "
        f"{last.name}'s calibrated {last.main} probabilities that lies on what the stage cuts. {_describe(cuts)} "
        "Requests on the right are those for which a larger quota, or a better order of the stage, would pay."
    )
    return [plot(partial(histograms, panels=cuts), caption, height=3.2)]


def _read_cuts(evaluated: EvaluatedRun) -> dict[str, CutRequests]:
    """Measure each stage that cuts something, by its title."""
    run, requests = evaluated.run.config, evaluated.predictions.requests
    order = cascade_rows(evaluated.predictions, run.stages, evaluated.calibrators, evaluated.truth)
    cuts = {}
    for n, stage in enumerate(run.stages[:-1]):
        inputs, cut = order.cut_inputs(n), requests.size > stage.keep
        if cut.any():
            probability = cut_probability(requests, inputs["expected"], inputs["rank"], stage.keep)[cut]
            cuts[f"{stage.name} keeps {stage.keep}"] = CutRequests(
                probability, float(probability.mean()), _read_bucket(inputs)
            )
    return cuts


def _read_bucket(inputs: Inputs) -> tuple[float, float, float] | None:
    """The share of clicks that a stage cuts, and its interval; None without clicks of a random bucket."""
    if "propensity" not in inputs:
        return None
    recall = METRICS["bucket_click_recall"].measure(inputs)
    bounds = None if recall is None else interval(recall)
    value = None if recall is None else recall.value()
    return None if value is None or bounds is None else (1 - value, 1 - bounds[1], 1 - bounds[0])


def _describe(cuts: dict[str, CutRequests]) -> str:
    """The means, and the random bucket's estimates, as text."""
    said = []
    for name, one in cuts.items():
        line = f"{name}: {one.mean:.1%} on average"
        if one.observed is not None:
            share, low, high = one.observed
            line += f"; by the clicks of the random bucket (dashed) {share:.1%}, {low:.1%} … {high:.1%}"
        said.append(f"{line}.")
    return " ".join(said)


def histograms(figure: Figure, panels: dict[str, CutRequests]) -> None:
    """Draw a histogram of requests a panel, with the mean, and the observed share dashed."""
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    high = max(float(one.probability.max()) for one in panels.values())
    for part, (name, one) in zip(axes, panels.items(), strict=True):
        part.hist(one.probability, np.linspace(0, max(high, 1e-6), BINS + 1), color=COLOURS[0], alpha=0.6)
        part.axvline(one.mean, color=COLOURS[0], linestyle="-", linewidth=1.4)
        if one.observed is not None:
            part.axvspan(*one.observed[1:], color=COLOURS[1], alpha=0.15, linewidth=0)
            part.axvline(one.observed[0], color=COLOURS[1], linestyle="--", linewidth=1.4)
        part.set_title(name)
        part.set_xlabel("probability that the best is cut")
        part.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        part.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].set_ylabel("requests")
