"""The report of a run: one HTML page on its stages, the cascade, calibration and training."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import yaml
from scipy.special import expit

from corank import __version__
from corank.analysis import plots
from corank.analysis.curves import quota_cpu_ms, quota_grid, quota_recalls, sample_logged_requests, scalars
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Cell, Html, folded, heading, page, plot, section, table, text
from corank.analysis.latency import QUOTA_ROUNDS
from corank.analysis.plots import Series
from corank.core.formatting import format_interval, format_metric
from corank.evaluation.document import BESIDE_METRICS
from corank.metrics.metric import METRICS, Metric, validation_metrics
from corank.metrics.reliability import ReliabilityCurve, reliability
from corank.training.config_file import plain
from corank.training.run import Run

POPULATIONS = {
    "exposed": "exposed candidates: what was shown, the ranker's own samples",
    "candidates": "all candidates: what the cascade must order",
}
TO_LOG = "Log the candidates that stages cut, or evaluate with a smaller `keep`."


def report_page(evaluated: EvaluatedRun) -> Html:
    """The page of an evaluated run.

    Raises:
        BundleError: if the model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    config = evaluated.run.config
    return page(
        f"{config.name}: {' → '.join(stage.name for stage in config.stages)}",
        _lead(evaluated),
        section("Stages side by side", *_stages(evaluated.document)),
        section("The cascade", *_cascade(evaluated)),
        section("Quota curve", *_quota_curve(evaluated)),
        section("Calibration", *_calibration(evaluated)),
        section("Scores by level", *_distributions(evaluated)),
        section("Ranks by stage", *_ranks(evaluated)),
        section("Training", *_training(evaluated.run)),
        section(
            "Config", folded("The whole config of this run", yaml.safe_dump(plain(config), sort_keys=False))
        ),
    )


def _lead(evaluated: EvaluatedRun) -> str:
    found, rows, data = evaluated.document, evaluated.predictions, evaluated.run.config.data
    log = data.log_files if isinstance(data.log_files, str) else ", ".join(data.log_files)
    positives = ", ".join(f"{int((known == 1).sum()):,} {name}" for name, known in rows.labels.items())
    epoch = evaluated.run.trained(evaluated.packed).facts["epoch"]
    return (
        f"Split {found['split']} of {log}: {found['requests']:,} requests of {len(np.unique(rows.requests.user)):,} "
        f"users, {found['candidates']:,} candidates, of which {int(rows.exposed.sum()):,} exposed ({positives}). "
        f"Weights of epoch {epoch}, run {evaluated.run.folder.name}, corank {__version__}."
    )


def _stages(document: dict[str, Any]) -> list[Html]:
    parts = [
        text(
            "All stages are evaluated on the same rows. The small range beside a figure is its 95 % interval over "
            f"users. {_directions(m for m in METRICS.parts().values() if m.population in POPULATIONS)}; calibrated: "
            "after calibration, as served. Undefined figures are left out."
        )
    ]
    for population, title in POPULATIONS.items():
        labels = {label: None for found in document["stages"].values() for label in found[population]}
        for label in labels:
            parts += _stages_on(document, population, label, f"{label}, {title}")
    return parts


def _directions(metrics: Iterable[Metric]) -> str:
    """Which way each metric is better, those after calibration left out."""
    words = {"higher": "higher is better", "one": "1 is perfect", "lower": "lower is better"}
    names: dict[str, list[str]] = {direction: [] for direction in words}
    for metric in metrics:
        if "calibrated" not in metric.inputs and metric.name not in names[metric.better]:
            names[metric.better].append(metric.name)
    return "; ".join(f"{', '.join(found)}: {words[way]}" for way, found in names.items() if found)


def _stages_on(document: dict[str, Any], population: str, label: str, title: str) -> list[Html]:
    figures = {n: f[population][label] for n, f in document["stages"].items() if label in f[population]}
    bounds = document["interval"]["stages"]
    first = next(iter(figures.values()))
    metrics = [m for m in first if m not in BESIDE_METRICS]
    known = [m for m in metrics if any(found[m] is not None for found in figures.values())]
    if not known:
        return []
    random, eligible = first.get("random", {}), first.get("eligible", {})
    rows: list[list[Cell]] = []
    for metric in known:
        row: list[Cell] = [metric]
        for stage, found in figures.items():
            interval = bounds[stage][population][label].get(metric)
            row.append((format_metric(found[metric]), format_interval(interval)))
        if random:
            grouped = metric in random
            row += [format_metric(random[metric]), f"{eligible[metric]:,}"] if grouped else ["", ""]
        rows.append(row)
    behind: list[Cell] = ["", ""] if random else []
    rows.append(["rows", *(f"{found['n']:,}" for found in figures.values()), *behind])
    titles = ["random order", "users or requests"] if random else []
    return [heading(title), table(["", *figures, *titles], rows)]


def _cascade(evaluated: EvaluatedRun) -> list[Html]:
    cascade, bounds = evaluated.document["cascade"], evaluated.document["interval"]["cascade"]
    if cascade is None:
        return [text("The config has a single stage: nothing is cut before it.")]
    first, *between, last = evaluated.run.config.stages
    quotas = ", ".join(f"{stage.name} keeps {stage.keep}" for stage in evaluated.run.config.stages)
    if not any(cascade["eligible"].values()):
        return [
            text(f"Nothing to evaluate: no request has more candidates than the quotas ({quotas}). {TO_LOG}")
        ]
    parts = [
        text(
            f"{first.name} against {last.name}; {quotas}. recall@k@m is the share of a top k that is in {first.name}'s "
            f"top m: agree, {last.name}'s own top; truth, the known one; click, what was clicked; joint, what comes "
            "through all stages. High agreement with low truth recall: the stages agree on the wrong items."
        ),
        *_cascade_table(cascade, bounds),
    ]
    for stage in between:
        parts.append(heading(f"{stage.name} against {last.name}"))
        parts += _cascade_table(cascade["stages"][stage.name], bounds["stages"][stage.name])
    return parts


def _cascade_table(figures: dict[str, Any], bounds: dict[str, Any]) -> list[Html]:
    """The defined figures as a table, and a sentence that names the undefined ones."""
    rows: list[list[Cell]] = []
    absent: list[str] = []
    for name, requests in figures["eligible"].items():
        if figures[name] is None:
            absent.append(name)
            continue
        value = (format_metric(figures[name]), format_interval(bounds[name]))
        rows.append([name, value, format_metric(figures["random"][name]), f"{requests:,}"])
    why = f"Undefined here: {', '.join(absent)} (no truth, no clicks, nothing cut, or requests no larger than the cut)."
    return [table(["", "value", "random order", "requests"], rows), *([text(why)] if absent else [])]


def _quota_curve(evaluated: EvaluatedRun) -> list[Html]:
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


def _calibration(evaluated: EvaluatedRun) -> list[Html]:
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


def _curve(found: ReliabilityCurve) -> Series:
    return Series(found.predicted, found.observed, found.low, found.high)


def _distributions(evaluated: EvaluatedRun) -> list[Html]:
    config, rows = evaluated.run.config, evaluated.predictions
    held = {name: rows.level == n for n, name in enumerate(config.data.levels) if (rows.level == n).any()}
    panels = {}
    for stage in config.stages:
        calibrator, z = evaluated.calibrators[stage.name][stage.main], rows.logits[stage.name][stage.main]
        odds = z * calibrator.slope + calibrator.intercept
        panels[f"{stage.name}: {stage.main}"] = {
            name: (odds[of], rows.weight[of]) for name, of in held.items()
        }
    counts = ", ".join(f"{name} {int(of.sum()):,}" for name, of in held.items())
    caption = (
        f"Each level's candidates ({counts}) by the calibrated probability that a stage gives them, on a scale of "
        "log-odds; every curve has the same area. A stage that repeats production's choice has curves far apart, from "
        "the first cut to the exposed; curves that lie on each other say that it cannot tell them apart."
    )
    drawn = plot(partial(plots.distributions, panels=panels), caption)
    if len(held) > 1:
        return [drawn]
    return [text(f"The split holds a single level ({counts}), so there is nothing cut to compare."), drawn]


def _ranks(evaluated: EvaluatedRun) -> list[Html]:
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


def _training(run: Run) -> list[Html]:
    logged = scalars(run.folder / "events")
    losses = {n.removeprefix("loss/"): {"": s} for n, s in logged.items() if n.startswith("loss/")}
    valid: dict[str, dict[str, Series]] = {}
    for name, series in logged.items():
        if name.startswith("valid/"):
            head, _, metric = name.removeprefix("valid/").rpartition(".")
            valid.setdefault(metric, {})[head] = series
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
            f"{_directions(validation_metrics().values())}."
        )
        draw = partial(plots.small_plots, plots=valid, x="step", markers=True)
        parts.append(plot(draw, caption, height=2.1 * plots.plot_rows(len(valid)) + 0.3))
    return parts
