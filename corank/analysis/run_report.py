"""The report of a run, or of two runs side by side: one HTML page on stages, cascade, calibration and training."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import yaml

from corank.analysis.comparison import MeasuredRun, compare_measured
from corank.analysis.comparison_page import Names, comparison_sections, describe_document
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.evaluation_view import calibration_blocks, cascade_blocks, stage_blocks
from corank.analysis.report_figures import (
    best_cut_blocks,
    distribution_blocks,
    quota_curve_blocks,
    rank_blocks,
    training_blocks,
)
from corank.core.formatting import format_interval, format_metric
from corank.core.reports import Progress
from corank.core.version import corank_version
from corank.core.view import Beside, Block, Folded, Heading, Section, View
from corank.evaluation.measures import render
from corank.training.config.config_file import plain
from corank.training.run import Run


def report_view(evaluated: EvaluatedRun) -> View:
    """The report of an evaluated run.

    Raises:
        BundleError: if the model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    config = evaluated.run.config
    name = ", ".join(dict.fromkeys((config.name, evaluated.run.folder.name)))
    quotas = ", ".join(f"{stage.name} keeps {stage.keep}" for stage in config.stages)
    return View(
        f"{name}: {' → '.join(stage.name for stage in config.stages)}",
        _lead(evaluated),
        [
            Section("Summary", _summary(evaluated)),
            Section("Stages side by side", stage_blocks(evaluated.document)),
            Section("The cascade", [f"{quotas}.", *cascade_blocks(evaluated.document)]),
            *(Section(title, blocks(evaluated)) for title, blocks in FIGURES.items()),
            Section("Training", training_blocks({"": evaluated.run})),
            Section("Config", [_fold_config("The whole config of this run", evaluated.run)]),
        ],
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


def _summary(evaluated: EvaluatedRun) -> list[Block]:
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
    blocks: list[Block] = [
        f"{before} {_value(exposed[name], bounds.get(name))}{after}"
        for name, (before, after) in sentences.items()
        if exposed.get(name) is not None
    ]
    recall, random = f"click_recall@{first.keep}", cascade.get("random", {})
    if cascade.get(recall) is not None:
        value = _value(cascade[recall], document["interval"]["cascade"][recall])
        words = (
            f"{first.name} keeps {value} of the clicks among the {first.keep} candidates that it lets through"
        )
        blocks.append(f"{words}; random order keeps {format_metric(random[recall])}.")
    return blocks or ["No click was logged on this split: only what needs none is known."]


def _value(value: float, bounds: Sequence[float] | None) -> str:
    """A figure with its interval, as text."""
    return format_metric(value) + (f" (95 % interval {format_interval(bounds)})" if bounds else "")


FIGURES: dict[str, Callable[[EvaluatedRun], list[Block]]] = {
    "Quota curve": quota_curve_blocks,
    "Best candidate cut": best_cut_blocks,
    "Calibration": lambda evaluated: calibration_blocks(evaluated.document),
    "Scores by level": distribution_blocks,
    "Ranks by stage": rank_blocks,
}
"""Title of a section → what it shows of one run."""


def pair_view(one: Run, other: Run, split: str, progress: Progress = lambda done, total: None) -> View:
    """The report of two finished runs, a and b, on the same candidates of a split.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the candidates differ.
        BundleError: if a model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    a, b = (MeasuredRun.of(run, split, progress) for run in (one, other))
    document = compare_measured(a, b)
    names = Names.of(document)
    evaluated = [
        replace(run.evaluated, document=run.evaluated.document | render(run.measured, bootstrap=False))
        for run in (a, b)
    ]
    figures = [
        Section(
            title,
            [Beside([[Heading(n), *blocks(e)] for n, e in zip(names.headings, evaluated, strict=True)])],
        )
        for title, blocks in FIGURES.items()
    ]
    runs = zip(names.headings, (one, other), strict=True)
    return View(
        f"{names.a} against {names.b}",
        describe_document(document),
        [
            *comparison_sections(document),
            *figures,
            Section("Training", training_blocks({"a": one, "b": other})),
            Section("Configs", [_fold_config(f"The whole config of {name}", run) for name, run in runs]),
        ],
        wide=True,
    )


def _fold_config(summary: str, run: Run) -> Folded:
    return Folded(summary, yaml.safe_dump(plain(run.config), sort_keys=False))
