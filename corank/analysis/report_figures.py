"""The parts of a report with figures, and their numbers: quotas, best cuts, calibration, scores, ranks, training.

Letters: R requests.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from corank.analysis import plots
from corank.analysis.colours import COLOURS
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.evaluation_view import TO_LOG
from corank.analysis.latency import QUOTA_ROUNDS, cpu_ms
from corank.analysis.logged_request import logged_request
from corank.analysis.plots import Series
from corank.core.types import Doubles
from corank.core.view import Block, Plot
from corank.evaluation.measures import cascade_rows
from corank.metrics.cascade import quota_curve
from corank.metrics.inputs import Inputs
from corank.metrics.intervals import interval
from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import METRICS, Metric, validation_metrics
from corank.metrics.off_policy import cut_probability
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.export import export_bundle
from corank.training.run import Run

QUOTAS = 12
"""Points of a quota curve, about."""
TIMED_REQUESTS = 8


def quota_grid(evaluated: EvaluatedRun) -> list[int]:
    """Quotas of the first stage, from what the last keeps to the longest request, with the config's own among them."""
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    largest = int(evaluated.predictions.requests.size.max())
    even = np.geomspace(last.keep, largest, QUOTAS).round().astype(int)
    return sorted({*even.tolist(), min(first.keep, largest)})


def quota_cpu_ms(
    evaluated: EvaluatedRun, requests: Sequence[Request], quotas: Sequence[int]
) -> NDArray[np.float64]:
    """Milliseconds of CPU time of a request, through the exported bundle, at each quota of the first stage.

    Raises BundleError, RequestError if the model cannot be exported or its requests cannot be ranked.
    """
    config = evaluated.run.config
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        bundle = export_bundle(
            Path(folder) / "bundle", config, evaluated.packed, evaluated.model, evaluated.calibrators
        )
        return cpu_ms(Funnel(bundle), requests, config.stages[0].name, quotas)


def quota_recalls(evaluated: EvaluatedRun, quotas: Sequence[int]) -> tuple[dict[str, Series], Series]:
    """Recall of the first stage at each quota, by reference set, and that of a random order.

    A reference set with no eligible request is left out.
    """
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    requests, k = evaluated.predictions.requests, last.keep
    references = {f"{last.name}'s top {k}": evaluated.ranks(last) < k}
    truth = evaluated.true_value(last)
    if truth is not None:
        references[f"true top {k}"] = requests.ranks(truth) < k
    references[f"{first.main}s"] = evaluated.predictions.labels[first.main] == 1
    curve = quota_curve(requests, references, evaluated.ranks(first), quotas)
    random = Series(curve.m, curve.random(next(iter(references))))
    return {
        name: Series(curve.m, curve.recall(name), *_bounds(ratios))
        for name, ratios in curve.measures.items()
        if any(ratio.n for ratio in ratios)
    }, random


def _bounds(ratios: Sequence[RatioMeasure]) -> NDArray[np.float64]:
    """Low and high ends of the intervals: (2, M), NaN where undefined."""
    return np.array([interval(ratio) or (np.nan, np.nan) for ratio in ratios], np.float64).T


def sample_logged_requests(evaluated: EvaluatedRun) -> list[Request]:
    """`TIMED_REQUESTS` logged requests of at least median size, spread evenly over the split."""
    size = evaluated.predictions.requests.size
    usual = np.flatnonzero(size >= np.median(size))
    chosen = np.unique(usual[np.linspace(0, len(usual) - 1, TIMED_REQUESTS).astype(int)])
    split = evaluated.document["split"]
    run, packed = evaluated.run, evaluated.packed
    return [Request.parse(logged_request(run, split, int(n), packed)) for n in chosen]


def scalars(events: Path) -> dict[str, Series]:
    """Scalars that a run logged to TensorBoard, by name: steps and values, without undefined values."""
    if not events.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    accumulator = EventAccumulator(str(events)).Reload()
    series = {}
    for name in accumulator.Tags()["scalars"]:
        logged = np.array([(event.step, event.value) for event in accumulator.Scalars(name)])
        known = logged[~np.isnan(logged[:, 1])]
        if len(known):
            series[name] = Series(known[:, 0], known[:, 1])
    return series


def quota_curve_blocks(evaluated: EvaluatedRun) -> list[Block]:
    """Recall and CPU time by the first stage's quota, or why there is none."""
    config, largest = evaluated.run.config, int(evaluated.predictions.requests.size.max())
    first, last = config.stages[0], config.stages[-1]
    if len(config.stages) < 2 or largest <= last.keep:
        wanted = f"requests of more than the {last.keep} candidates that {last.name} keeps"
        return [f"None: it takes two stages, and {wanted}. {TO_LOG}"]
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
    return [Plot(draw, caption)]


def distribution_blocks(evaluated: EvaluatedRun) -> list[Block]:
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
    drawn = Plot(partial(plots.distributions, panels=panels), caption)
    if len(levels) > 1:
        return [drawn]
    return [f"The split holds a single level ({counts}), so there is nothing cut to compare.", drawn]


def rank_blocks(evaluated: EvaluatedRun) -> list[Block]:
    """Each stage's order against the last one's, or why there is none."""
    *before, last = evaluated.run.config.stages
    if not before or evaluated.predictions.requests.size.max() < 2:
        return ["None: it takes two stages, and requests of more than one candidate."]
    y = evaluated.ranks(last) + 1
    panels = [
        plots.RankPair(evaluated.ranks(s) + 1, y, s.keep, last.keep, (s.name, last.name)) for s in before
    ]
    caption = (
        "Where candidates stand in both orders of their request, 1 the best. On the diagonal the stages agree. Right "
        f"of the upright line and below the level one lies what {last.name} would have shown, had it not been cut."
    )
    return [Plot(partial(plots.rank_heatmap, panels=panels), caption, height=3.8)]


def training_blocks(runs: Mapping[str, Run]) -> list[Block]:
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
        return ["The run's folder holds no TensorBoard events, from which loss curves are drawn."]
    blocks: list[Block] = [
        Plot(
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
        blocks.append(Plot(draw, caption, height=2.1 * plots.plot_rows(len(valid)) + 0.3))
    return blocks


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


BINS = 40


class CutRequests(NamedTuple):
    """How likely each request lost its best candidate to a stage's cut."""

    probability: Doubles
    """Of the requests with more candidates than the stage keeps: (R,)."""
    mean: float
    observed: tuple[float, float, float] | None
    """The share of clicks that the stage cuts, by a random bucket, and its interval; None if it is not known."""


def best_cut_blocks(evaluated: EvaluatedRun) -> list[Block]:
    """How likely each request lost its best candidate, a histogram a stage, or why there is none."""
    stages, rows = evaluated.run.config.stages, evaluated.predictions
    if len(stages) < 2 or rows.requests.size.max() <= min(stage.keep for stage in stages[:-1]):
        wanted = "requests of more candidates than a stage before the last keeps"
        return [f"None: it takes two stages, and {wanted}. {TO_LOG}"]
    cuts = _read_cuts(evaluated)
    last = stages[-1]
    caption = (
        "How likely each request lost its best candidate, the one that the user would choose of all: the share of "
        f"{last.name}'s calibrated {last.main} probabilities that lies on what the stage cuts. {_describe(cuts)} "
        "Requests on the right are those for which a larger quota, or a better order of the stage, would pay."
    )
    return [Plot(partial(histograms, panels=cuts), caption, height=3.2)]


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
