"""The parts of a report with figures, and their numbers: quotas, best cuts, calibration, scores, ranks, training.

Letters: R requests.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from corank.analysis import plots
from corank.analysis.colours import COLOURS, plot_rows
from corank.analysis.evaluation_view import TO_LOG
from corank.analysis.plots import Series
from corank.analysis.run_evaluation import Evaluation
from corank.core.page import PageSettings
from corank.core.types import Doubles
from corank.core.view import Block, Cell, Plot, Share, Table
from corank.metrics.cascade import cascade_ranks, quota_curve, quota_grid
from corank.metrics.inputs import Inputs
from corank.metrics.intervals import interval
from corank.metrics.metric import METRICS, Metric, validation_metrics
from corank.metrics.off_policy import cut_probability
from corank.training.run import Run


def quota_recalls(evaluated: Evaluation, quotas: Sequence[int]) -> tuple[dict[str, Series], Series]:
    """Recall of the first stage at each quota, by reference set, and that of a random order.

    A reference set with no eligible request is left out.
    """
    first, references = evaluated.run.config.stages[0], _reference_sets(evaluated)
    requests = evaluated.predictions.requests
    curve = quota_curve(requests, references, evaluated.ranks(first), quotas)
    bounds = {
        name: np.array([interval(ratio) or (np.nan, np.nan) for ratio in ratios], np.float64).T
        for name, ratios in curve.measures.items()
        if any(ratio.n for ratio in ratios)
    }
    recalls = {name: Series(curve.m, curve.recall(name), *ends) for name, ends in bounds.items()}
    return recalls, Series(curve.m, curve.random(next(iter(references))))


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


def funnel_blocks(evaluated: Evaluation) -> list[Block]:
    """A picture of the funnel: how many candidates each stage leaves, and how much of what matters is among them."""
    stages, requests = evaluated.run.config.stages, evaluated.predictions.requests
    kept = [np.ones(int(requests.start[-1]), bool), *cascade_keeps(evaluated)]
    columns = {"width": [float(requests.sums(inside).mean()) for inside in kept]}
    for name, wanted in _reference_sets(evaluated).items():
        count = requests.sums(wanted)
        if count.any():
            of = [
                requests.mean(requests.sums(wanted & inside) / np.maximum(count, 1), count > 0)
                for inside in kept
            ]
            columns[name] = [one.value() or 0.0 for one in of]
    names = ["retrieved", *(f"{stage.name} keeps {stage.keep}" for stage in stages)]
    cells = {name: list(_share_cells(values)) for name, values in columns.items()}
    rows: list[list[Cell]] = [[name, *(of[n] for of in cells.values())] for n, name in enumerate(names)]
    said = (
        "Width: how many candidates a request has left after each stage, in the mean; beside it how much of what "
        "matters is still among them: what narrows more slowly than the candidates was chosen well."
    )
    return [Table(["", *columns], rows), said]


def _share_cells(values: Sequence[float]) -> Iterator[Share]:
    """A cell a stage, as wide as its share of what was retrieved."""
    whole = values[0]
    for n, value in enumerate(values):
        share, below = value / whole, values[min(n + 1, len(values) - 1)] / whole
        text = f"{100 * value:.3g} %" if whole == 1 else f"{value:,.4g}"
        yield Share(text, share, below)


def cascade_keeps(evaluated: Evaluation) -> Iterator[NDArray[np.bool_]]:
    """Whether each candidate is still there after each stage: (C,)."""
    order, requests = evaluated.cascade, evaluated.predictions.requests
    keeps = [stage.keep for stage in evaluated.run.config.stages]
    for n in range(len(keeps)):
        rank = cascade_ranks(requests, order.scores[: n + 1], keeps[:n])
        yield rank < min(keeps[: n + 1])


def _reference_sets(evaluated: Evaluation) -> dict[str, NDArray[np.bool_]]:
    """What a funnel should keep: the last stage's best, the true best if they are known, and the positives: (C,)."""
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    requests, k = evaluated.predictions.requests, last.keep
    references = {f"{last.name}'s top {k}": evaluated.ranks(last) < k}
    if (truth := evaluated.true_value(last)) is not None:
        references[f"true top {k}"] = requests.ranks(truth) < k
    return references | {f"{first.main}s": evaluated.predictions.labels[first.main] == 1}


def quota_curve_blocks(evaluated: Evaluation) -> list[Block]:
    """Recall by the first stage's quota, or why there is none."""
    config, largest = evaluated.run.config, int(evaluated.predictions.requests.size.max())
    first, last = config.stages[0], config.stages[-1]
    if len(config.stages) < 2 or largest <= last.keep:
        wanted = f"requests of more than the {last.keep} candidates that {last.name} keeps"
        return [f"None: it takes two stages, and {wanted}. {TO_LOG}"]
    quotas = quota_grid(first.keep, last.keep, largest)
    curves, random = quota_recalls(evaluated, [m for m in quotas if m < largest])
    caption = (
        f"How many candidates must {first.name} keep? The share of the best that survives; where it flattens, a larger "
        "quota buys nothing. Bands are 95 % intervals; at each quota, requests with more candidates count. Dashed: the "
        "config's quota. What quotas cost: corank tune --budget-us."
    )
    lines: dict[str, Any] = {"recalls": curves, "random": random}
    return [Plot(partial(plots.plot_quota_curve, **lines, keep=first.keep, stage=first.name), caption)]


STRENGTHS, LAMBDAS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9), (1.0, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3)
PAGE_REQUESTS = 500
"""Requests whose pages are filled at each strength, about."""
WORTHS = {
    "page_value": "value by the last stage",
    "page_near_clicks": "clicks by the bucket",
    "page_truth": "true value",
}


def page_curve_blocks(evaluated: Evaluation, page: PageSettings) -> list[Block]:
    """What pages are worth against how much differs on them, from the order by value on."""
    dpp = page.method == "dpp"
    weights = sorted({*(STRENGTHS if dpp else LAMBDAS), page.weight}, reverse=not dpp)
    filled = [evaluated.page_inputs(page.weighed(weight), PAGE_REQUESTS) for weight in weights]
    distances = _page_points("page_distance", filled)
    if distances is None:
        return ["None: no page of the split shows two items whose similarity is known."]
    worths = {title: _page_points(key, filled) for key, title in WORTHS.items()}
    panels = {
        title: Series(distances.y, *points[1:]) for title, points in worths.items() if points is not None
    }
    name, ends = ("strength", "0") if dpp else ("λ", "1")
    caption = (
        f"What must a page give up to be diverse? Each point is the mean page of {page.keep} slots, {page.method} by "
        f"{page.by}, at one {name}, which some points say; {ends} is the order by value, and the large one is the "
        "config's. To the right less on a page is alike. Bands are 95 % intervals over users. The last stage's value "
        "is of each item alone, so it falls; where the clicks of the random bucket or the true value rise, users tire "
        "of what is alike."
    )
    draw = partial(plots.plot_page_curve, panels=panels, weights=weights, chosen=weights.index(page.weight))
    return [Plot(draw, caption, height=3.2)]


def _page_points(key: str, filled: Sequence[Inputs]) -> Series | None:
    """A metric of pages at each strength; None if one is not known."""
    metric = METRICS[key]
    if any(name not in filled[0] for name in metric.inputs):
        return None
    points = []
    for inputs in filled:
        measured = metric.measure(inputs)
        value = None if measured is None else measured.value()
        if measured is None or value is None:
            return None
        points.append((value, *(interval(measured) or (value, value))))
    y, low, high = np.array(points).T
    return Series(y, y, low, high)


def distribution_blocks(evaluated: Evaluation) -> list[Block]:
    """Each stage's calibrated probabilities, by level."""
    config, rows = evaluated.run.config, evaluated.predictions
    levels = {name: rows.level == n for n, name in enumerate(config.data.levels) if (rows.level == n).any()}
    panels = {}
    for stage in config.stages:
        calibrator, z = evaluated.calibrators[stage.name][stage.main], rows.logits[stage.name][stage.main]
        odds = z * calibrator.slope + calibrator.intercept
        of_levels = {level: (odds[rows_of], rows.weight[rows_of]) for level, rows_of in levels.items()}
        panels[f"{stage.name}: {stage.main}"] = of_levels
    counts = ", ".join(f"{name} {int(of.sum()):,}" for name, of in levels.items())
    caption = (
        f"Each level's candidates ({counts}) by the calibrated probability that a stage gives them, on a scale of "
        "log-odds; every curve has the same area. A stage that repeats production's choice has curves far apart, from "
        "the first cut to the exposed; curves that lie on each other say that it cannot tell them apart."
    )
    drawn = Plot(partial(plots.distributions, panels=panels), caption)
    alone = f"The split holds a single level ({counts}), so there is nothing cut to compare."
    return [drawn] if len(levels) > 1 else [alone, drawn]


def rank_blocks(evaluated: Evaluation) -> list[Block]:
    """Each stage's order against the last one's, or why there is none."""
    stages = evaluated.run.config.stages
    if len(stages) < 2 or evaluated.predictions.requests.size.max() < 2:
        return ["None: it takes two stages, and requests of more than one candidate."]
    ranks = {stage.name: (evaluated.ranks(stage) + 1, stage.keep) for stage in stages}
    caption = (
        "Where candidates stand in both orders of their request, 1 the best. On the diagonal the stages agree. Right "
        "of the upright line and below the level one lies what "
        f"{stages[-1].name} would have shown, had it not been cut."
    )
    return [Plot(partial(plots.rank_heatmap, ranks=ranks), caption, height=3.8)]


def training_blocks(runs: Mapping[str, Run]) -> list[Block]:
    """Losses and validation by step, the lines of several runs over each other, each with its name."""
    losses, valid = defaultdict[str, dict[str, Series]](dict), defaultdict[str, dict[str, Series]](dict)
    for run_name, run in runs.items():
        for name, series in scalars(run.folder / "events").items():
            kind, _, name = name.partition("/")
            head, _, metric = name.rpartition(".")
            if kind == "loss":
                losses[name][run_name] = series
            elif kind == "valid":
                valid[metric][f"{run_name} {head}".strip()] = series
    if not losses:
        return ["The run's folder holds no TensorBoard events, from which loss curves are drawn."]
    caption = (
        "Each loss over its own candidates, before its weight: pale as logged, dark its running mean. Compare a "
        "curve's shape, not the height of one loss with another's."
    )
    draw, height = partial(plots.small_plots, plots=losses, x="step"), 2.1 * plot_rows(len(losses))
    blocks: list[Block] = [Plot(draw, caption, height)]
    if valid:
        directions = describe_directions(validation_metrics().values())
        caption = f"Exposed validation rows after each epoch, before calibration; {directions}."
        draw = partial(plots.small_plots, plots=valid, x="step", markers=True)
        blocks.append(Plot(draw, caption, 2.1 * plot_rows(len(valid)) + 0.3))
    return blocks


def describe_directions(metrics: Iterable[Metric]) -> str:
    """Which way each metric is better, those after calibration left out."""
    words = {"higher": "higher is better", "one": "1 is perfect", "lower": "lower is better"}
    plain = {metric.name: words[metric.better] for metric in metrics if "calibrated" not in metric.inputs}
    names = {word: ", ".join(name for name, of in plain.items() if of == word) for word in words.values()}
    return "; ".join(f"{listed}: {word}" for word, listed in names.items() if listed)


BINS = 40


CutRequests = tuple[Doubles, tuple[float, float, float] | None]
"""How likely each request lost its best candidate to a stage's cut, of those with more than it keeps: (R,); and the
share of clicks that the stage cuts, by a random bucket, with its interval; None if it is not known."""


def best_cut_blocks(evaluated: Evaluation) -> list[Block]:
    """How likely each request lost its best candidate, a histogram a stage, or why there is none."""
    stages, rows = evaluated.run.config.stages, evaluated.predictions
    if len(stages) < 2 or rows.requests.size.max() <= min(stage.keep for stage in stages[:-1]):
        wanted = "requests of more candidates than a stage before the last keeps"
        return [f"None: it takes two stages, and {wanted}. {TO_LOG}"]
    last = stages[-1]
    order = evaluated.cascade
    cuts: dict[str, CutRequests] = {}
    means = []
    for n, stage in enumerate(stages[:-1]):
        inputs, cut = order.cut_inputs(n), rows.requests.size > stage.keep
        if not cut.any():
            continue
        probability = cut_probability(rows.requests, inputs["expected"], inputs["rank"], stage.keep)[cut]
        name = f"{stage.name} keeps {stage.keep}"
        line = f"{name}: {probability.mean():.1%} on average"
        observed: tuple[float, float, float] | None = None
        recall = METRICS["bucket_click_recall"].measure(inputs) if "propensity" in inputs else None
        value, bounds = (None, None) if recall is None else (recall.value(), interval(recall))
        if value is not None and bounds is not None:
            share, low, high = observed = (1 - value, 1 - bounds[1], 1 - bounds[0])
            line += f"; by the clicks of the random bucket (dashed) {share:.1%}, {low:.1%} … {high:.1%}"
        cuts[name] = probability, observed
        means.append(f"{line}.")
    caption = (
        "How likely each request lost its best candidate, the one that the user would choose of all: the share of "
        f"{last.name}'s calibrated {last.main} probabilities that lies on what the stage cuts. {' '.join(means)} "
        "Requests on the right are those for which a larger quota, or a better order of the stage, would pay."
    )
    return [Plot(partial(histograms, panels=cuts), caption, height=3.2)]


def histograms(figure: Figure, panels: Mapping[str, CutRequests]) -> None:
    """Draw a histogram of requests a panel, with the mean, and the observed share dashed."""
    high = max(float(probability.max()) for probability, _ in panels.values())
    bins = np.linspace(0, max(high, 1e-6), BINS + 1).tolist()
    for part, _, (probability, observed) in plots.lay_out(figure, panels, sharex=True):
        part.hist(probability, bins, color=COLOURS[0], alpha=0.6)
        part.axvline(float(probability.mean()), color=COLOURS[0], linestyle="-", linewidth=1.4)
        if observed is not None:
            part.axvspan(*observed[1:], color=COLOURS[1], alpha=0.15, linewidth=0)
            part.axvline(observed[0], color=COLOURS[1], linestyle="--", linewidth=1.4)
        part.set_xlabel("probability that the best is cut")
        part.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        part.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.axes[0].set_ylabel("requests")
