"""The parts of a report with figures: quota curve, calibration, scores by level, ranks, training."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from scipy.special import expit

from corank.analysis import plots
from corank.analysis.curves import quota_cpu_ms, quota_grid, quota_recalls, sample_logged_requests, scalars
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Html, heading, plot, text
from corank.analysis.latency import QUOTA_ROUNDS
from corank.analysis.plots import Series
from corank.metrics.metric import Metric, validation_metrics
from corank.metrics.reliability import ReliabilityCurve, reliability
from corank.training.run import Run

TO_LOG = "Log the candidates that stages cut, or evaluate with a smaller `keep`."
"""Advice where nothing is cut."""


def quota_curve_parts(evaluated: EvaluatedRun) -> list[Html]:
    """Recall and CPU time by the first stage's quota, or why there is none."""
    config, largest = evaluated.run.config, int(evaluated.predictions.requests.size.max())
    first, last = config.stages[0], config.stages[-1]
    if len(config.stages) < 2 or largest <= last.keep:
        wanted = f"requests of more than the {last.keep} candidates that {last.name} keeps"
        return [text(f"None: it takes two stages, and {wanted}. {TO_LOG}")]
    quotas = quota_grid(evaluated)
    curves, random = quota_recalls(evaluated, [m for m in quotas if m < largest])
    requests = sample_logged_requests(evaluated)
    cost = Series(np.array(quotas), quota_cpu_ms(evaluated, requests, quotas))
    caption = (
        f"How many candidates must {first.name} keep? Left: the share of the best that survives; where it flattens, a "
        "larger quota buys nothing. Bands are 95 % intervals; at each quota, requests with more candidates count. "
        f"Right: CPU time of a whole request, encoding included: {len(requests)} logged requests through the exported "
        f"graphs on this machine, the median of {QUOTA_ROUNDS} rounds. The dashed line is the config's quota."
    )
    draw = partial(
        plots.plot_quota_curve, recalls=curves, random=random, cost=cost, keep=first.keep, stage=first.name
    )
    return [plot(draw, caption)]


def calibration_parts(evaluated: EvaluatedRun) -> list[Html]:
    """Predicted against observed rates, a plot a label."""
    parts = []
    for label in evaluated.predictions.labels:
        stages = [stage.name for stage in evaluated.run.config.stages if label in stage.labels]
        if stages:
            parts += [heading(label), _calibration_of(evaluated, label, stages)]
    return parts


def _calibration_of(evaluated: EvaluatedRun, label: str, stages: list[str]) -> Html:
    rows = evaluated.predictions
    known = rows.exposed & (rows.labels[label] >= 0)
    positive, weight = rows.labels[label][known] == 1, rows.weight[known]
    if not positive.any() or positive.all():
        return text(f"Nothing to compare: {positive.sum():,} of {len(positive):,} exposed rows are {label}.")
    panels: dict[str, dict[str, Series]] = {"raw": {}, "calibrated": {}}
    for stage in stages:
        raw, calibrated = expit(rows.logits[stage][label]), evaluated.probability(stage, label)
        panels["raw"][stage] = _curve(reliability(raw[known], positive, weight))
        panels["calibrated"][stage] = _curve(reliability(calibrated[known], positive, weight))
    count = len(panels["raw"][stages[0]].x)
    caption = (
        f"{label}, on {len(positive):,} exposed rows in {count} bins of equal mass: the predicted rate against the "
        "observed, with 95 % intervals. On the line: right. Below it: the stage promises too much. A stage that "
        "trained on unexposed negatives lies above it until calibrated."
    )
    return plot(partial(plots.plot_reliability, panels=panels), caption, height=3.9)


def _curve(curve: ReliabilityCurve) -> Series:
    return Series(curve.predicted, curve.observed, curve.low, curve.high)


def distribution_parts(evaluated: EvaluatedRun) -> list[Html]:
    """Each stage's calibrated probabilities, by level."""
    config, rows = evaluated.run.config, evaluated.predictions
    levels = {name: rows.level == n for n, name in enumerate(config.data.levels) if (rows.level == n).any()}
    panels = {}
    for stage in config.stages:
        calibrator, z = evaluated.calibrators[stage.name][stage.main], rows.logits[stage.name][stage.main]
        odds = z * calibrator.slope + calibrator.intercept
        panels[f"{stage.name}: {stage.main}"] = {
            name: (odds[of], rows.weight[of]) for name, of in levels.items()
        }
    counts = ", ".join(f"{name} {int(of.sum()):,}" for name, of in levels.items())
    caption = (
        f"Each level's candidates ({counts}) by the calibrated probability that a stage gives them, on a scale of "
        "log-odds; every curve has the same area. A stage that repeats production's choice has curves far apart, from "
        "the first cut to the exposed; curves that lie on each other say that it cannot tell them apart."
    )
    drawn = plot(partial(plots.distributions, panels=panels), caption)
    if len(levels) > 1:
        return [drawn]
    return [text(f"The split holds a single level ({counts}), so there is nothing cut to compare."), drawn]


def rank_parts(evaluated: EvaluatedRun) -> list[Html]:
    """Each stage's order against the last one's, or why there is none."""
    *before, last = evaluated.run.config.stages
    if not before or evaluated.predictions.requests.size.max() < 2:
        return [text("None: it takes two stages, and requests of more than one candidate.")]
    y = evaluated.ranks(last) + 1
    panels = [
        plots.RankPair(evaluated.ranks(s) + 1, y, s.keep, last.keep, (s.name, last.name)) for s in before
    ]
    caption = (
        "Where candidates stand in both orders of their request, 1 the best. On the diagonal the stages agree. Right "
        f"of the upright line and below the level one lies what {last.name} would have shown, had it not been cut."
    )
    return [plot(partial(plots.rank_heatmap, panels=panels), caption, height=3.8)]


def training_parts(runs: Mapping[str, Run]) -> list[Html]:
    """Losses and validation by step, the lines of several runs over each other, each with its name."""
    losses: dict[str, dict[str, Series]] = {}
    valid: dict[str, dict[str, Series]] = {}
    for run_name, run in runs.items():
        for name, series in scalars(run.folder / "events").items():
            if name.startswith("loss/"):
                losses.setdefault(name.removeprefix("loss/"), {})[run_name] = series
            elif name.startswith("valid/"):
                head, _, metric = name.removeprefix("valid/").rpartition(".")
                valid.setdefault(metric, {})[f"{run_name} {head}".strip()] = series
    if not losses:
        return [text("The run's folder holds no TensorBoard events, from which loss curves are drawn.")]
    parts = [
        plot(
            partial(plots.small_plots, plots=losses, x="step"),
            "Each loss over its own candidates, before its weight: pale as logged, dark its running mean. Compare a "
            "curve's shape, not the height of one loss with another's.",
            height=2.1 * plots.plot_rows(len(losses)),
        )
    ]
    if valid:
        caption = (
            "Exposed validation rows after each epoch, before calibration; "
            f"{describe_directions(validation_metrics().values())}."
        )
        draw = partial(plots.small_plots, plots=valid, x="step", markers=True)
        parts.append(plot(draw, caption, height=2.1 * plots.plot_rows(len(valid)) + 0.3))
    return parts


def describe_directions(metrics: Iterable[Metric]) -> str:
    """Which way each metric is better, those after calibration left out."""
    words = {"higher": "higher is better", "one": "1 is perfect", "lower": "lower is better"}
    names: dict[str, list[str]] = {direction: [] for direction in words}
    for metric in metrics:
        if "calibrated" not in metric.inputs and metric.name not in names[metric.better]:
            names[metric.better].append(metric.name)
    return "; ".join(
        f"{', '.join(metric_names)}: {words[way]}" for way, metric_names in names.items() if metric_names
    )
