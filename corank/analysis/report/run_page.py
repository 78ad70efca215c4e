"""The report of a run: one HTML page on its stages, the cascade, calibration and training."""

from typing import Any

import numpy as np
import yaml

from corank import __version__
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Cell, Html, folded, heading, page, section, table, text
from corank.analysis.report.conflicts import conflict_parts
from corank.analysis.report.cut_figures import best_cut_parts
from corank.analysis.report.run_figures import (
    TO_LOG,
    calibration_parts,
    describe_directions,
    distribution_parts,
    quota_curve_parts,
    rank_parts,
    training_parts,
)
from corank.core.formatting import format_interval, format_metric
from corank.evaluation.document import BESIDE_METRICS
from corank.metrics.metric import METRICS
from corank.training.config_file import plain

POPULATIONS = {
    "exposed": "exposed candidates: what was shown, the ranker's own samples",
    "candidates": "all candidates: what the cascade must order",
}


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
        section("Quota curve", *quota_curve_parts(evaluated)),
        section("Best candidate cut", *best_cut_parts(evaluated)),
        section("Calibration", *calibration_parts(evaluated)),
        section("Scores by level", *distribution_parts(evaluated)),
        section("Ranks by stage", *rank_parts(evaluated)),
        section("Training", *training_parts({"": evaluated.run}), *conflict_parts({"": evaluated.run})),
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
    ways = describe_directions(m for m in METRICS.parts().values() if m.population in POPULATIONS)
    parts = [
        text(
            "All stages are evaluated on the same rows. The small range beside a figure is its 95 % interval over "
            f"users. {ways}; calibrated: "
            "after calibration, as served. Undefined figures are left out."
        )
    ]
    for population, title in POPULATIONS.items():
        labels = {label: None for found in document["stages"].values() for label in found[population]}
        for label in labels:
            parts += _stages_on(document, population, label, f"{label}, {title}")
    return parts


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
