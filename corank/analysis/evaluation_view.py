"""What `corank evaluate` shows of a run as a whole and by groups. The report of a run has the same tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Cell, Detail, Heading, Plot, Section, Table, View, bounded
from corank.metrics.inputs import Population
from corank.metrics.metric import BETTER, metric_direction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

POPULATIONS: dict[Population, str] = {
    "exposed": "exposed candidates: what was shown, the ranker's own samples",
    "candidates": "all candidates: what the cascade must order",
}
TO_LOG = "Log the candidates that stages cut, or evaluate with a smaller `keep`."
"""Advice where nothing is cut."""
SHOWN = ("auc", "gauc", "request_auc", "ndcg@10", "logloss_calibrated", "pcoc_calibrated")
"""Metrics of exposed candidates that are shown of groups, those that the split has."""
_BESIDE = ("n", "eligible", "random")
"""Keys next to the metrics of a stage's label."""
_CALIBRATION = ("loss", "pcoc", "ece")
"""Parts of the names of metrics that measure no order."""

Panels = Mapping[str, Mapping[str, tuple[float, float | None, float | None]]]
"""Panel → row → a value with the bounds of its interval."""


def evaluation_view(document: Mapping[str, Any]) -> View:
    """The view of an evaluation's document, as `corank evaluate --json` prints it."""
    counts = f"{document['requests']:,} requests, {document['candidates']:,} candidates"
    return View(
        f"Split {document['split']}",
        f"{document['split']}: {counts}",
        [
            Section("Stages side by side", [*_plot_stages(document), *stage_blocks(document)]),
            Section("The cascade", cascade_blocks(document)),
            Section("Calibration", calibration_blocks(document)),
        ],
    )


def plot_values(panels: Panels, caption: str, from_zero: bool = False) -> Plot:
    """Values with their intervals, one panel a name and one row a name below it; only rows that all panels have.

    Args:
        panels: at least one.
        caption: of the figure.
        from_zero: they are differences, drawn next to a line at 0.
    """
    first, *others = panels.values()
    common = [row for row in first if all(row in rows for rows in others)]
    shown = {name: {row: rows[row] for row in common} for name, rows in panels.items()}

    def draw(figure: "Figure") -> None:
        (plots.intervals if from_zero else plots.values)(figure, shown)

    return Plot(draw, caption, 1.2 + 0.28 * len(common))


def _plot_stages(document: Mapping[str, Any]) -> list[Block]:
    """The metrics of order of every stage, on the exposed candidates."""
    panels: dict[str, dict[str, tuple[float, float | None, float | None]]] = {}
    for stage, populations in document["stages"].items():
        for label, metrics in populations["exposed"].items():
            bounds = document["interval"]["stages"][stage]["exposed"][label]
            for metric, value in metrics.items():
                if metric not in _BESIDE and value is not None and not any(p in metric for p in _CALIBRATION):
                    low, high = bounds.get(metric) or (None, None)
                    panels.setdefault(stage, {})[f"{label} {metric}"] = value, low, high
    caption = "Metrics of order on the exposed candidates, with 95 % intervals over users."
    return [plot_values(panels, caption)] if panels else []


def stage_blocks(document: Mapping[str, Any]) -> list[Block]:
    """A table of all stages for each population and label of an evaluation's document."""
    how = (
        "All stages are evaluated on the same rows. The small range beside a figure is its 95 % interval over users. "
        "Calibrated: after calibration, as served. Undefined figures are left out."
    )
    blocks: list[Block] = [Detail([how])]
    for population, title in POPULATIONS.items():
        labels = {label: None for figures in document["stages"].values() for label in figures[population]}
        for label in labels:
            blocks += _stage_tables(document, population, label, f"{label}, {title}")
    return blocks


def _stage_tables(
    document: Mapping[str, Any], population: Population, label: str, title: str
) -> Iterator[Table]:
    figures = {n: f[population][label] for n, f in document["stages"].items() if label in f[population]}
    bounds = document["interval"]["stages"]
    first = next(iter(figures.values()))
    metrics = [m for m in first if m not in _BESIDE]
    known = [m for m in metrics if any(values[m] is not None for values in figures.values())]
    random, eligible = first.get("random", {}), first.get("eligible", {})
    beside = ["random order", "users or requests"] if random else []
    rows: list[list[Cell]] = []
    for metric in known:
        row: list[Cell] = [metric]
        row += [
            bounded(f[metric], bounds[stage][population][label].get(metric)) for stage, f in figures.items()
        ]
        if random:
            grouped = metric in random
            row += [format_metric(random[metric]), f"{eligible[metric]:,}"] if grouped else ["", ""]
        rows.append([*row, BETTER[metric_direction(metric, population)]])
    rows.append(["rows", *(f"{values['n']:,}" for values in figures.values()), *[""] * (len(beside) + 1)])
    if known:
        columns = ["", *figures, *beside, "better is"]
        yield Table(columns, rows, title, details=("users or requests", "better is"))


def cascade_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Tables of the first stage's cut with the cascade, and of the cuts between, or why there are none."""
    cascade, bounds = document["cascade"], document["interval"]["cascade"]
    if cascade is None:
        return ["The config has a single stage: nothing is cut before it."]
    if not any(cascade["eligible"].values()):
        return [f"Nothing to evaluate: no request has more candidates than the quotas. {TO_LOG}"]
    (first, *_, last), between = document["stages"], [*cascade.get("stages", {})][1:]
    how = (
        f"{first} against {last}. recall@k@m is the share of a top k that is in {first}'s top m: agree, {last}'s own "
        "top; truth, the known one; click, what was clicked; joint, what comes through all stages. High agreement "
        "with low truth recall: the stages agree on the wrong items."
    )
    blocks: list[Block] = [Detail([how]), *_cascade_table(cascade, bounds)]
    for stage in between:
        title = f"{stage} against {last}"
        blocks += _cascade_table(cascade["stages"][stage], bounds["stages"][stage], title)
    return blocks


def _cascade_table(figures: Mapping[str, Any], bounds: Mapping[str, Any], title: str = "") -> Iterator[Block]:
    """The defined figures as a table, and a sentence that names the undefined ones."""
    rows: list[list[Cell]] = [
        [
            name,
            bounded(figures[name], bounds[name]),
            format_metric(figures["random"][name]),
            f"{requests:,}",
            BETTER[metric_direction(name, "cut", "cascade")],
        ]
        for name, requests in figures["eligible"].items()
        if figures[name] is not None
    ]
    yield Table(["", "value", "random order", "requests", "better is"], rows, title)
    if absent := [name for name in figures["eligible"] if figures[name] is None]:
        why = "no truth, no clicks, nothing cut, or requests no larger than the cut"
        yield f"Undefined here: {', '.join(absent)} ({why})."


def calibration_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Predicted against observed rates, a plot and a table a label, or why there are none."""
    curves: dict[str, dict[str, list[dict[str, float]]]] = {}
    for stage, labels in document["reliability"].items():
        for label, bins in labels.items():
            curves.setdefault(label, {})[stage] = bins
    blocks: list[Block] = []
    for label, stages in curves.items():
        bins = next(iter(stages.values()))
        count = sum(int(rates["n"]) for rates in bins)
        blocks.append(Heading(label))
        if (observed := {rates["observed"] for rates in bins}) <= {0.0} or observed == {1.0}:
            positive = count if 1.0 in observed else 0
            blocks.append(f"Nothing to compare: {positive:,} of {count:,} exposed rows are {label}.")
            continue
        caption = (
            f"{label}, on {count:,} exposed rows in {len(bins)} bins of equal mass: the predicted rate against the "
            "observed, with 95 % intervals. On the line: right. Below it: the stage promises too much. A stage that "
            "trained on unexposed negatives lies above it until calibrated."
        )
        blocks += [Plot(partial(_draw_calibration, stages=stages), caption, 3.9), _calibration_table(stages)]
    return blocks


def _draw_calibration(figure: "Figure", stages: Mapping[str, list[dict[str, float]]]) -> None:
    panels = {
        predicted: {
            stage: plots.Series(
                *(np.array([rates[key] for rates in bins]) for key in (predicted, "observed", "low", "high"))
            )
            for stage, bins in stages.items()
        }
        for predicted in ("raw", "calibrated")
    }
    plots.plot_reliability(figure, panels)


def _calibration_table(stages: Mapping[str, list[dict[str, float]]]) -> Table:
    """Bin by bin, from the lowest predictions to the highest."""
    keys = ("raw", "calibrated", "observed")
    columns = ["bin", *(f"{stage} {key}" for stage in stages for key in keys)]
    rows = [
        [f"{n}", *(format_metric(rates.get(key)) for rates in of_bin for key in keys)]
        for n, of_bin in enumerate(zip_longest(*stages.values(), fillvalue=dict[str, float]()), start=1)
    ]
    return Table(columns, rows)


_Figure = tuple[float | None, list[float] | None]
"""A metric and its interval, None if they are not known."""


def groups_view(document: Mapping[str, Any], title: str) -> View:
    """The view of the groups' document, as `corank evaluate --by --json` prints it: a plot and a table a metric."""
    groups, by = document["groups"], document["by"]
    sections = []
    for (label, metric), stages in _shown_metrics(document, SHOWN).items():
        figures = {stage: _group_figures(document, stage, label, metric) for stage in stages}
        rows: list[list[Cell]] = [
            [group["name"], *(bounded(*of_stage[n]) for of_stage in figures.values())]
            for n, group in enumerate(groups)
        ]
        plot = _plot_groups(document, figures, f"{metric} of {label}")
        sections.append(Section(f"{label}: {metric}", [plot, Table([by, *stages], rows)]))
    counts = [[group["name"], f"{group['requests']:,}", f"{group['candidates']:,}"] for group in groups]
    blocks: list[Block] = [Table([by, "requests", "candidates"], counts)]
    if not document["whole_requests"]:
        blocks.append("Groups hold parts of requests, so the cascade is not evaluated.")
    lead = f"Split {document['split']}, by {by}: {len(groups)} groups. corank {corank_version()}."
    return View(title, lead, [*sections, Section("Rows", blocks)])


def plot_groups(document: Mapping[str, Any], metric: str) -> list[Plot]:
    """A metric of every stage and label, group by group; nothing if no group has it."""
    figures = {
        f"{stage} {label}": _group_figures(document, stage, label, metric)
        for (label, _), stages in _shown_metrics(document, [metric]).items()
        for stage in stages
    }
    return [_plot_groups(document, figures, metric)] if figures else []


def _plot_groups(document: Mapping[str, Any], figures: Mapping[str, list[_Figure]], what: str) -> Plot:
    names = [group["name"] for group in document["groups"]]
    panels = {
        panel: {
            name: (math.nan if value is None else value, *(bounds or (None, None)))
            for name, (value, bounds) in zip(names, of_panel, strict=True)
        }
        for panel, of_panel in figures.items()
    }
    caption = f"{what} by {document['by']}, with 95 % intervals over users"
    return Plot(lambda figure: plots.values(figure, panels), caption, 0.9 + 0.25 * len(names))


def _group_figures(document: Mapping[str, Any], stage: str, label: str, metric: str) -> list[_Figure]:
    """A metric of a stage, group by group."""
    return [
        (
            group["stages"][stage]["exposed"][label].get(metric),
            group["interval"]["stages"][stage]["exposed"][label].get(metric),
        )
        for group in document["groups"]
    ]


def _shown_metrics(
    document: Mapping[str, Any], metrics: Sequence[str]
) -> dict[tuple[str, str], dict[str, None]]:
    """The labels and metrics that have a value in some group, by label, with the stages that have it."""
    stages: dict[tuple[str, str], dict[str, None]] = {}
    for group in document["groups"]:
        for stage, parts in group["stages"].items():
            for label, figures in parts["exposed"].items():
                for metric in metrics:
                    if figures.get(metric) is not None:
                        stages.setdefault((label, metric), {})[stage] = None
    return dict(sorted(stages.items(), key=lambda entry: (entry[0][0], metrics.index(entry[0][1]))))
