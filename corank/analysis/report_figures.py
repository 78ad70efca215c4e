"""The parts of a report with pictures, and their numbers: the funnel, quotas, and value against diversity.

Letters: R requests.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.analysis import plots
from corank.analysis.evaluation_view import TO_LOG
from corank.analysis.plots import Series
from corank.analysis.run_evaluation import Evaluation
from corank.core.page import PageSettings
from corank.core.view import Block, Cell, Plot, Share, Table
from corank.metrics.cascade import cascade_ranks, quota_curve, quota_grid
from corank.metrics.inputs import Inputs
from corank.metrics.intervals import interval
from corank.metrics.metric import METRICS


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
