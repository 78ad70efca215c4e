"""What `corank evaluate` shows of a run as a whole and by groups. The report of a run has the same tables."""

import math
from collections import defaultdict
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
    from corank.analysis.plots import Panels
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
Document = Mapping[str, Any]
"""As `corank evaluate --json` prints it."""
_BESIDE = ("n", "eligible", "random")
"""Keys next to the metrics of a stage's label."""
_CALIBRATION = ("loss", "pcoc", "ece")
"""Parts of the names of metrics that measure no order."""


def evaluation_view(document: Document) -> View:
    """The view of an evaluation's document, as `corank evaluate --json` prints it."""
    counts = f"{document['requests']:,} requests, {document['candidates']:,} candidates"
    return View(
        f"Split {document['split']}",
        f"{document['split']}: {counts}",
        [
            Section("Stages side by side", [*_plot_stages(document), *stage_blocks(document)]),
            Section("The cascade", cascade_blocks(document)),
            *page_sections(document),
            Section("Calibration", calibration_blocks(document)),
        ],
    )


def plot_values(panels: "Panels", caption: str, from_zero: bool = False) -> Plot:
    """Values with their intervals, one panel a name and one row a name below it; only rows that all panels have.

    Args:
        panels: at least one.
        caption: of the figure.
        from_zero: they are differences, drawn next to a line at 0.
    """
    common = [row for row in next(iter(panels.values())) if all(row in rows for rows in panels.values())]
    shown = {name: {row: rows[row] for row in common} for name, rows in panels.items()}
    return Plot(
        lambda figure: (plots.intervals if from_zero else plots.values)(figure, shown),
        caption,
        1.2 + 0.28 * len(common),
    )


def _plot_stages(document: Document) -> list[Block]:
    """The metrics of order of every stage, on the exposed candidates."""
    panels = defaultdict[str, dict[str, tuple[float, float | None, float | None]]](dict)
    for stage, populations in document["stages"].items():
        for label, metrics in populations["exposed"].items():
            bounds = document["interval"]["stages"][stage]["exposed"][label]
            for metric, value in metrics.items():
                if metric not in _BESIDE and value is not None and not any(p in metric for p in _CALIBRATION):
                    panels[stage][f"{label} {metric}"] = value, *(bounds.get(metric) or (None, None))
    caption = "Metrics of order on the exposed candidates, with 95 % intervals over users."
    return [plot_values(panels, caption)] if panels else []


def stage_blocks(document: Document) -> list[Block]:
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


def _stage_tables(document: Document, population: Population, label: str, title: str) -> Iterator[Table]:
    figures = {n: f[population][label] for n, f in document["stages"].items() if label in f[population]}
    bounds = {n: document["interval"]["stages"][n][population][label] for n in figures}
    first = next(iter(figures.values()))
    random, eligible = first.get("random", {}), first.get("eligible", {})
    beside = ["random order", "users or requests"] if random else []
    rows: list[list[Cell]] = []
    for metric in first:
        if metric in _BESIDE or all(values[metric] is None for values in figures.values()):
            continue
        order = [format_metric(random[metric]), f"{eligible[metric]:,}"] if metric in random else ["", ""]
        cells = [bounded(values[metric], bounds[stage].get(metric)) for stage, values in figures.items()]
        better = BETTER[metric_direction(metric, population)]
        rows.append([metric, *cells, *order[: len(beside)], better])
    if rows:
        rows.append(["rows", *(f"{values['n']:,}" for values in figures.values()), *["" for _ in beside], ""])
        columns = ["", *figures, *beside, "better is"]
        yield Table(columns, rows, title, details=("users or requests", "better is"))


def cascade_blocks(document: Document) -> list[Block]:
    """Tables of the first stage's cut with the cascade, and of the cuts between, or why there are none."""
    cascade, bounds = document["cascade"], document["interval"]["cascade"]
    if cascade is None:
        return ["The config has a single stage: nothing is cut before it."]
    if not any(cascade["eligible"].values()):
        return [f"Nothing to evaluate: no request has more candidates than the quotas. {TO_LOG}"]
    first, *_, last = document["stages"]
    how = (
        f"{first} against {last}. recall@k@m is the share of a top k that is in {first}'s top m: agree, {last}'s own "
        "top; truth, the known one; click, what was clicked; joint, what comes through all stages. High agreement "
        "with low truth recall: the stages agree on the wrong items."
    )
    blocks: list[Block] = [Detail([how]), *_cascade_table(cascade, bounds)]
    for stage in [*cascade.get("stages", {})][1:]:
        title = f"{stage} against {last}"
        blocks += _cascade_table(cascade["stages"][stage], bounds["stages"][stage], title)
    return blocks


def page_sections(document: Document) -> list[Section]:
    """A table of what pages are worth and how diverse they are; nothing without a page."""
    if "page" not in document:
        return []
    how = (
        "Means over pages: the sum of the last stage's value, of the true value, of clicks by the random bucket; "
        "1 - similarity of two; distinct values of a column and their entropy in bits. Of all pages: the share of the "
        "catalogue that they show, the Gini index of how often, and the share of slots that break a rule."
    )
    tables = _cascade_table(document["page"], document["interval"]["page"], populations=("page",))
    return [Section("The page", [Detail([how]), *tables])]


def _cascade_table(
    figures: Mapping[str, Any],
    bounds: Mapping[str, Any],
    title: str = "",
    populations: Sequence[Population] = ("cut", "cascade"),
) -> Iterator[Block]:
    """The defined figures as a table, and a sentence that names the undefined ones."""
    rows: list[list[Cell]] = []
    for name, requests in figures["eligible"].items():
        if figures[name] is not None:
            random, better = format_metric(figures["random"][name]), metric_direction(name, *populations)
            rows.append([name, bounded(figures[name], bounds[name]), random, f"{requests:,}", BETTER[better]])
    yield Table(["", "value", "random order", "requests", "better is"], rows, title)
    if absent := [name for name in figures["eligible"] if figures[name] is None]:
        why = "no truth, no clicks, nothing cut, or requests no larger than the cut"
        why = why if populations != ("page",) else "no truth, no similarity, or no column of values"
        yield f"Undefined here: {', '.join(absent)} ({why})."


def calibration_blocks(document: Document) -> list[Block]:
    """Predicted against observed rates, a plot and a table a label, or why there are none."""
    curves = defaultdict[str, dict[str, list[dict[str, float]]]](dict)
    for stage, labels in document["reliability"].items():
        for label, bins in labels.items():
            curves[label][stage] = bins
    blocks: list[Block] = []
    for label, stages in curves.items():
        bins = next(iter(stages.values()))
        count = sum(int(rates["n"]) for rates in bins)
        blocks.append(Heading(label))
        if (observed := {rates["observed"] for rates in bins}) <= {0.0} or observed == {1.0}:
            positive = f"{count:,}" if 1.0 in observed else "0"
            blocks.append(f"Nothing to compare: {positive} of {count:,} exposed rows are {label}.")
            continue
        caption = (
            f"{label}, on {count:,} exposed rows in {len(bins)} bins of equal mass: the predicted rate against the "
            "observed, with 95 % intervals. On the line: right. Below it: the stage promises too much. A stage that "
            "trained on unexposed negatives lies above it until calibrated."
        )
        blocks += [Plot(partial(_draw_calibration, stages=stages), caption, 3.9), _calibration_table(stages)]
    return blocks


def _draw_calibration(figure: "Figure", stages: Mapping[str, list[dict[str, float]]]) -> None:
    def series(bins: list[dict[str, float]], predicted: str) -> "plots.Series":
        keys = (predicted, "observed", "low", "high")
        return plots.Series(*(np.array([rates[key] for rates in bins]) for key in keys))

    panels = {p: {stage: series(bins, p) for stage, bins in stages.items()} for p in ("raw", "calibrated")}
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


_Figures = Mapping[str, list[tuple[float | None, list[float] | None]]]
"""A metric by stage, or stage and label: group by group the value and its interval, None if they are not known."""


def groups_view(document: Document, title: str) -> View:
    """The view of the groups' document, as `corank evaluate --by --json` prints it: a plot and a table a metric."""
    groups, by = document["groups"], document["by"]
    sections = []
    for (label, metric), figures in _shown_metrics(document, SHOWN).items():
        rows: list[list[Cell]] = [
            [group["name"], *(bounded(*of_stage[n]) for of_stage in figures.values())]
            for n, group in enumerate(groups)
        ]
        plot = _plot_groups(document, figures, f"{metric} of {label}")
        sections.append(Section(f"{label}: {metric}", [plot, Table([by, *figures], rows)]))
    counts = [[group["name"], f"{group['requests']:,}", f"{group['candidates']:,}"] for group in groups]
    blocks: list[Block] = [Table([by, "requests", "candidates"], counts)]
    if not document["whole_requests"]:
        blocks.append("Groups hold parts of requests, so the cascade is not evaluated.")
    lead = f"Split {document['split']}, by {by}: {len(groups)} groups. corank {corank_version()}."
    return View(title, lead, [*sections, Section("Rows", blocks)])


def plot_groups(document: Document, metric: str) -> list[Plot]:
    """A metric of every stage and label, group by group; nothing if no group has it."""
    shown = _shown_metrics(document, [metric])
    figures = {f"{stage} {label}": by for (label, _), stages in shown.items() for stage, by in stages.items()}
    return [_plot_groups(document, figures, metric)] if figures else []


def _plot_groups(document: Document, figures: _Figures, what: str) -> Plot:
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


def _shown_metrics(document: Document, metrics: Sequence[str]) -> dict[tuple[str, str], _Figures]:
    """The labels and metrics that have a value in some group, by label, with the figures of the stages that have it."""
    shown = defaultdict[tuple[str, str], dict[str, Any]](dict)
    for group in document["groups"]:
        for stage, parts in group["stages"].items():
            for label, figures in parts["exposed"].items():
                for metric in (name for name in metrics if figures.get(name) is not None):
                    of = [(one["stages"], one["interval"]["stages"]) for one in document["groups"]]
                    shown[label, metric][stage] = [
                        tuple(stages[stage]["exposed"][label].get(metric) for stages in both) for both in of
                    ]
    return dict(sorted(shown.items(), key=lambda entry: (entry[0][0], metrics.index(entry[0][1]))))
