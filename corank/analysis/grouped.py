"""A run evaluated group by group: by day, by a feature, or by a column of the log; and its page."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from corank.analysis.evaluated_run import predict_run
from corank.core.formatting import format_interval, format_metric
from corank.core.types import Progress
from corank.core.version import corank_version
from corank.evaluation.document import render
from corank.evaluation.groups import group_candidates, select_candidates
from corank.evaluation.measures import evaluate_predictions
from corank.evaluation.stage_order import read_truth
from corank.training.run import Run

SHOWN = ("auc", "gauc", "request_auc", "ndcg@10", "logloss_calibrated", "pcoc_calibrated")
"""Metrics of exposed candidates that the table and the page show, those that the split has."""


def evaluate_groups(
    run: Run, split: str, by: str, bootstrap: bool = True, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Evaluate each group of a split's candidates, as `evaluate_run` does all of them.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        by: `day`, a feature with one code a row, or a column of the log.
        bootstrap: whether to compute intervals.
        progress: receives how many requests are scored, and of how many.

    Returns `{"split", "by", "whole_requests", "groups"}`: each group is an evaluation with its `name`. Without whole
    requests in a group there is no cascade. Raises CheckpointError, DataError.
    """
    packed, _, calibrators, predictions, _ = predict_run(run, split, progress)
    truth = read_truth(packed, split)
    groups = group_candidates(packed, run.base, split, predictions, by)
    stages, levels = run.config.stages, run.config.data.levels
    documents = []
    for n, name in enumerate(groups.names):
        rows, true = select_candidates(predictions, truth, groups.of == n)
        evaluation = evaluate_predictions(
            rows, stages, levels, calibrators, true, split, whole_requests=groups.of_requests
        )
        documents.append({"name": name} | render(evaluation, bootstrap=bootstrap))
    return {"split": split, "by": by, "whole_requests": groups.of_requests, "groups": documents}


def shown_metrics(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The stages, labels and metrics that the table and the page show: those with a value in some group."""
    triples = {
        (stage, label, metric): None
        for group in document["groups"]
        for stage, parts in group["stages"].items()
        for label, figures in parts["exposed"].items()
        for metric in SHOWN
        if figures.get(metric) is not None
    }
    order = {metric: n for n, metric in enumerate(SHOWN)}
    return sorted(triples, key=lambda part: (part[1], order[part[2]]))


def group_figures(document: Mapping[str, Any], stage: str, label: str, metric: str) -> list[tuple[str, str]]:
    """A metric of each group, and its interval, as text."""
    rows = []
    for group in document["groups"]:
        value = group["stages"][stage]["exposed"][label].get(metric)
        bounds = group["interval"]["stages"][stage]["exposed"][label].get(metric)
        rows.append((format_metric(value), format_interval(bounds)))
    return rows


def groups_page(document: Mapping[str, Any], title: str) -> str:
    """The page of `evaluate_groups`: a plot and a table a metric."""
    from corank.analysis import plots
    from corank.analysis.html import Cell, page, plot, section, table

    names = [group["name"] for group in document["groups"]]
    sections = []
    metrics: dict[tuple[str, str], list[str]] = {}
    for stage, label, metric in shown_metrics(document):
        metrics.setdefault((label, metric), []).append(stage)
    for (label, metric), stages in metrics.items():
        panels = {stage: _points(document, stage, label, metric) for stage in stages}
        drawn = plot(
            partial(plots.values, panels=panels),
            f"{metric} of {label} by {document['by']}, with 95 % intervals over users",
            height=0.9 + 0.25 * len(names),
        )
        columns = [group_figures(document, stage, label, metric) for stage in stages]
        rows: list[Sequence[Cell]] = [[name, *row] for name, *row in zip(names, *columns, strict=True)]
        sections.append(section(f"{label}: {metric}", drawn, table(["", *stages], rows)))
    counts: list[Sequence[Cell]] = [
        [group["name"], f"{group['requests']:,}", f"{group['candidates']:,}"] for group in document["groups"]
    ]
    sections.append(section("Rows", table([document["by"], "requests", "candidates"], counts)))
    lead = f"Split {document['split']}, by {document['by']}: {len(names)} groups. corank {corank_version()}."
    return page(title, lead, *sections)


def _points(
    document: Mapping[str, Any], stage: str, label: str, metric: str
) -> dict[str, tuple[float, float | None, float | None]]:
    points = {}
    for group in document["groups"]:
        value = group["stages"][stage]["exposed"][label].get(metric)
        bounds = group["interval"]["stages"][stage]["exposed"][label].get(metric) or (None, None)
        points[group["name"]] = (np.nan if value is None else value, bounds[0], bounds[1])
    return points
