"""The report of a run, or of two runs side by side: one HTML page on stages, cascade, calibration and training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import yaml

from corank.analysis.comparison import MeasuredRun, compare_measured
from corank.analysis.comparison_page import Names, comparison_sections, describe_document
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import (
    Cell,
    Html,
    beside,
    folded,
    heading,
    joined,
    page,
    render_section,
    section,
    table,
    text,
)
from corank.analysis.report_figures import (
    TO_LOG,
    best_cut_parts,
    calibration_parts,
    distribution_parts,
    quota_curve_parts,
    rank_parts,
    training_parts,
)
from corank.analysis.verdicts import BETTER, metric_direction
from corank.core.formatting import format_interval, format_metric
from corank.core.reports import Progress
from corank.core.version import corank_version
from corank.evaluation.measures import BESIDE_METRICS
from corank.metrics.inputs import Population
from corank.training.config.config_file import plain
from corank.training.run import Run

POPULATIONS: dict[Population, str] = {
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
    name = ", ".join(dict.fromkeys((config.name, evaluated.run.folder.name)))
    return page(
        f"{name}: {' → '.join(stage.name for stage in config.stages)}",
        _lead(evaluated),
        section("Summary", *_summary(evaluated)),
        section("Stages side by side", *_stages(evaluated.document)),
        section("The cascade", *_cascade(evaluated)),
        section("Quota curve", *quota_curve_parts(evaluated)),
        section("Best candidate cut", *best_cut_parts(evaluated)),
        section("Calibration", *calibration_parts(evaluated)),
        section("Scores by level", *distribution_parts(evaluated)),
        section("Ranks by stage", *rank_parts(evaluated)),
        section("Training", *training_parts({"": evaluated.run})),
        section(
            "Config", folded("The whole config of this run", yaml.safe_dump(plain(config), sort_keys=False))
        ),
    )


def _lead(evaluated: EvaluatedRun) -> str:
    document, rows, data = evaluated.document, evaluated.predictions, evaluated.run.config.data
    log = data.log_files if isinstance(data.log_files, str) else ", ".join(data.log_files)
    positives = ", ".join(f"{int((known == 1).sum()):,} {name}" for name, known in rows.labels.items())
    epoch = evaluated.run.trained(evaluated.packed).facts["epoch"]
    return (
        f"Split {document['split']} of {log}: {document['requests']:,} requests of "
        f"{len(np.unique(rows.requests.user)):,} users, {document['candidates']:,} candidates, of which "
        f"{int(rows.exposed.sum()):,} exposed ({positives}). "
        f"Run {evaluated.run.folder}, weights of epoch {epoch}, seed {evaluated.run.config.train.seed}, corank "
        f"{corank_version()}."
    )


def _summary(evaluated: EvaluatedRun) -> list[Html]:
    """Quality of the last stage and of the cuts in words: the figures that are defined."""
    document, stages = evaluated.document, evaluated.run.config.stages
    first, last = stages[0], stages[-1]
    exposed = document["stages"][last.name]["exposed"].get(last.main, {})
    bounds = document["interval"]["stages"][last.name]["exposed"].get(last.main, {})
    cascade = document["cascade"] or {}
    sentences = {
        "auc": (
            f"{last.name} orders the exposed candidates by {last.main} with an AUC of",
            "; 0.5 is random order.",
        ),
        "pcoc_calibrated": (
            "As served, it predicts",
            f" times as many {last.main} as there are; 1 is perfect.",
        ),
    }
    parts = [
        text(f"{before} {_value(exposed[name], bounds.get(name))}{after}")
        for name, (before, after) in sentences.items()
        if exposed.get(name) is not None
    ]
    recall, random = f"click_recall@{first.keep}", cascade.get("random", {})
    if cascade.get(recall) is not None:
        value = _value(cascade[recall], document["interval"]["cascade"][recall])
        words = (
            f"{first.name} keeps {value} of the clicks among the {first.keep} candidates that it lets through"
        )
        parts.append(text(f"{words}; random order keeps {format_metric(random[recall])}."))
    return parts or [text("No click was logged on this split: only what needs none is known.")]


def _value(value: float, bounds: Sequence[float] | None) -> str:
    """A figure with its interval, as text."""
    return format_metric(value) + (f" (95 % interval {format_interval(bounds)})" if bounds else "")


def _stages(document: dict[str, Any]) -> list[Html]:
    parts = [
        text(
            "All stages are evaluated on the same rows. The small range beside a figure is its 95 % interval over "
            "users. Calibrated: after calibration, as served. Undefined figures are left out."
        )
    ]
    for population, title in POPULATIONS.items():
        labels = {label: None for figures in document["stages"].values() for label in figures[population]}
        for label in labels:
            parts += _stages_on(document, population, label, f"{label}, {title}")
    return parts


def _stages_on(document: dict[str, Any], population: Population, label: str, title: str) -> list[Html]:
    figures = {n: f[population][label] for n, f in document["stages"].items() if label in f[population]}
    bounds = document["interval"]["stages"]
    first = next(iter(figures.values()))
    metrics = [m for m in first if m not in BESIDE_METRICS]
    known = [m for m in metrics if any(values[m] is not None for values in figures.values())]
    if not known:
        return []
    random, eligible = first.get("random", {}), first.get("eligible", {})
    rows: list[list[Cell]] = []
    for metric in known:
        row: list[Cell] = [metric]
        for stage, values in figures.items():
            interval = bounds[stage][population][label].get(metric)
            row.append((format_metric(values[metric]), format_interval(interval)))
        if random:
            grouped = metric in random
            row += [format_metric(random[metric]), f"{eligible[metric]:,}"] if grouped else ["", ""]
        rows.append([*row, BETTER[metric_direction(metric, population)]])
    titles = ["random order", "users or requests"] if random else []
    rows.append(["rows", *(f"{values['n']:,}" for values in figures.values()), *[""] * (len(titles) + 1)])
    return [heading(title), table(["", *figures, *titles, "better is"], rows)]


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
        random, better = (
            format_metric(figures["random"][name]),
            BETTER[metric_direction(name, "cut", "cascade")],
        )
        rows.append([name, value, random, f"{requests:,}", better])
    why = f"Undefined here: {', '.join(absent)} (no truth, no clicks, nothing cut, or requests no larger than the cut)."
    return [
        table(["", "value", "random order", "requests", "better is"], rows),
        *([text(why)] if absent else []),
    ]


FIGURES: dict[str, Callable[[EvaluatedRun], list[Html]]] = {
    "Quota curve": quota_curve_parts,
    "Best candidate cut": best_cut_parts,
    "Calibration": calibration_parts,
    "Scores by level": distribution_parts,
    "Ranks by stage": rank_parts,
}
"""Title of a section → what it shows of one run."""


def pair_page(one: Run, other: Run, split: str, progress: Progress = lambda done, total: None) -> Html:
    """The page of two finished runs, a and b, on the same candidates of a split.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the candidates differ.
        BundleError: if a model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    a, b = (MeasuredRun.of(run, split, progress) for run in (one, other))
    document = compare_measured(a, b)
    names = Names.of(document)
    runs = dict(zip(names.headings, (one, other), strict=True))
    figures = [
        section(
            title,
            beside(
                *(
                    joined(heading(name), *parts(measured.evaluated))
                    for name, measured in zip(names.headings, (a, b), strict=True)
                )
            ),
        )
        for title, parts in FIGURES.items()
    ]
    return page(
        f"{names.a} against {names.b}",
        describe_document(document),
        *map(render_section, comparison_sections(document)),
        *figures,
        section("Training", *training_parts({"a": one, "b": other})),
        section(
            "Configs", *(folded(f"The whole config of {name}", _dump(run)) for name, run in runs.items())
        ),
        wide=True,
    )


def _dump(run: Run) -> str:
    return yaml.safe_dump(plain(run.config), sort_keys=False)
