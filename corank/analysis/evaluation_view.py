"""What `corank evaluate` shows of a run as a whole and by groups. The report of a run has the same tables."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from corank.analysis.pivot import (
    BETTER,
    Beside,
    Pivot,
    draw_values,
    format_count,
    format_random,
    group_by,
    value_cell,
)
from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Detail, Heading, Plot, Section, Table, View
from corank.evaluation.rows import Row, name_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

POPULATIONS = {
    "exposed": "exposed candidates: what was shown, the ranker's own samples",
    "candidates": "all candidates: what the cascade must order",
}
TO_LOG = "Log the candidates that stages cut, or evaluate with a smaller `keep`."
"""Advice where nothing is cut."""
SHOWN = ("auc", "gauc", "request_auc", "ndcg@10", "logloss_calibrated", "pcoc_calibrated")
"""Metrics of exposed candidates that are shown of groups, those that the split has."""
Document = Mapping[str, Any]
"""As `corank evaluate --json` prints it."""
_BETTER: Beside = {"better is": lambda row: BETTER[row["better"]]}
_STAGES = Pivot("metric", "stage", beside=_BETTER)
_ORDERS = Pivot(
    "metric",
    "stage",
    beside={
        "random order": format_random,
        "users or requests": lambda row: "" if row["random"] is None else format_count(row),
        **_BETTER,
    },
)
_CASCADE = Pivot(
    "metric",
    beside={
        "value": value_cell,
        "random order": lambda row: format_metric(row["random"]),
        "requests": format_count,
        **_BETTER,
    },
)
_GROUPS = Pivot("group", "stage")


def view_of(document: Document) -> View:
    """The view of an evaluation's document, as `corank evaluate --json` prints it."""
    if "by" in document["run"]:
        return groups_view(document)
    split = document["run"]["split"]
    return View(
        f"Split {split}",
        describe_counts(document),
        [
            Section("Stages side by side", stage_blocks(document["rows"])),
            Section("The cascade", cascade_blocks(document)),
            *page_sections(document),
            Section("Calibration", calibration_blocks(document["rows"])),
        ],
    )


def describe_counts(document: Document) -> str:
    """The split, its requests and candidates, as text."""
    counts = (row for row in document["rows"] if row["population"] == "rows")
    said = ", ".join(f"{row['n']:,} {row['metric']}" for row in counts)
    return f"{document['run']['split']}: {said}"


def stage_blocks(rows: Sequence[Row]) -> list[Block]:
    """A table of all stages for each population and label of an evaluation."""
    blocks: list[Block] = [Detail(["Small ranges are 95 % intervals over users; calibrated: as served."])]
    for population, title in POPULATIONS.items():
        by_label = group_by((row for row in rows if row["population"] == population), "label")
        for label, of_label in by_label.items():
            blocks += _stage_tables(of_label, f"{label}, {title}")
    return blocks


def _stage_tables(rows: Sequence[Row], title: str) -> Iterator[Table]:
    """The figures of all stages that some of them define, and how many rows they are of."""
    lines = group_by(rows, "metric")
    defined = [row for of in lines.values() if any(row["value"] is not None for row in of) for row in of]
    if not defined:
        return
    first = next(iter(lines.values()))  # AUC, which counts rows
    ordered = any(row["random"] is not None for row in rows)
    table = (_ORDERS if ordered else _STAGES).table(
        defined, title, details=("users or requests", "better is")
    )
    ends = [""] * (len(table.columns) - 1 - len(first))
    counts = ["rows", *map(format_count, first), *ends]
    yield Table(table.columns, [*table.rows, counts], title, details=table.details)


def cascade_blocks(document: Document) -> list[Block]:
    """Tables of the first stage's cut with the cascade, and of the cuts between, or why there are none."""
    rows = [row for row in document["rows"] if row["population"] in ("cut", "cascade")]
    if not rows:
        return ["The config has a single stage: nothing is cut before it."]
    if not any(row["n"] for row in rows):
        return [f"Nothing to evaluate: no request has more candidates than the quotas. {TO_LOG}"]
    first, *_, last = document["run"]["stages"]
    how = (
        f"recall@k@m: the share of a top k that is in {first}'s top m, of {last}'s own top (agree), of the true one, "
        "of what was clicked; joint: in what comes through all stages."
    )
    cuts = group_by(rows, "stage")
    cuts[first] += cuts.pop("")
    blocks: list[Block] = [Detail([how])]
    for stage, of_stage in cuts.items():
        title = "" if stage == first else f"{stage} against {last}"
        blocks += _cascade_table(of_stage, title, document.get("reasons", {}))
    return blocks


def page_sections(document: Document) -> list[Section]:
    """A table of what pages are worth and how diverse they are; nothing without a page."""
    of_pages = [row for row in document["rows"] if row["population"] == "page"]
    why = "no truth, no similarity, or no column of values"
    if not of_pages:
        return []
    return [Section("The page", [*_cascade_table(of_pages, "", document.get("reasons", {}), why)])]


def _cascade_table(
    rows: Sequence[Row],
    title: str,
    reasons: Mapping[str, str],
    why: str = "no truth, no clicks, nothing cut, or requests no larger than the cut",
) -> Iterator[Block]:
    """The defined figures as a table, and a sentence that names the undefined ones, and why they are."""
    yield _CASCADE.table((row for row in rows if row["value"] is not None), title)
    named = {name_row(row): row["metric"] for row in rows if row["value"] is None}
    for reason in dict.fromkeys(reasons[name] for name in named if name in reasons):
        yield f"{', '.join(key for name, key in named.items() if reasons.get(name) == reason)}: {reason}."
    if absent := [key for name, key in named.items() if name not in reasons]:
        yield f"Undefined here: {', '.join(absent)} ({why})."


def calibration_blocks(rows: Sequence[Row]) -> list[Block]:
    """Predicted against observed rates, a plot and a table a label, or why there are none."""
    labels = dict.fromkeys(row["label"] for row in rows if row["population"] == "exposed")
    bins = group_by((row for row in rows if row["population"] == "reliability"), "label")
    blocks: list[Block] = []
    for label in labels:
        of_label = bins.get(label, [])
        stage = next(iter(group_by(of_label, "stage").values()), [])
        observed = [row for row in stage if row["metric"].startswith("observed@")]
        count, rates = sum(row["n"] for row in observed), {row["value"] for row in observed}
        blocks.append(Heading(label))
        if rates <= {0.0} or rates == {1.0}:
            positive = f"{count:,}" if 1.0 in rates else "0"
            blocks.append(f"Nothing to compare: {positive} of {count:,} exposed rows are {label}.")
            continue
        caption = (
            f"{label}, on {count:,} exposed rows in {len(observed)} bins of equal mass: the predicted rate against the "
            "observed, with 95 % intervals. On the line: right. Below it: the stage promises too much. A stage that "
            "trained on unexposed negatives lies above it until calibrated."
        )
        blocks += [Plot(partial(_draw_calibration, rows=of_label), caption, 3.9), _BINS.table(of_label)]
    return blocks


_RATES = {"predicted": "raw", "predicted_calibrated": "calibrated", "observed": "observed"}
_BINS = Pivot(
    lambda row: row["metric"].partition("@")[2],
    lambda row: f"{row['stage']} {_RATES[row['metric'].partition('@')[0]]}",
    lambda row: format_metric(row["value"]),
)
"""Bin by bin, from the lowest predictions to the highest."""


def _draw_calibration(figure: "Figure", rows: Sequence[Row]) -> None:
    def series(of_stage: Sequence[Row], name: str) -> "plots.Series":
        of = group_by(of_stage, lambda row: row["metric"].partition("@")[0])
        columns = (of[name], "value"), *((of["observed"], key) for key in ("value", "low", "high"))
        return plots.Series(*(np.array([row[key] for row in bins]) for bins, key in columns))

    stages = group_by(rows, "stage")
    panels = {
        _RATES[name]: {stage: series(of, name) for stage, of in stages.items()}
        for name in ("predicted", "predicted_calibrated")
    }
    plots.plot_reliability(figure, panels)


def groups_view(document: Document) -> View:
    """The view of groups: a plot and a table a metric."""
    rows, run = document["rows"], document["run"]
    by, counts = run["by"], [row for row in rows if row["population"] == "rows"]
    sections = []
    for (label, metric), shown in _shown_metrics(rows, SHOWN):
        plot = _plot_groups(shown, by, "stage", f"{metric} of {label}")
        sections.append(Section(f"{label}: {metric}", [plot, _GROUPS.table(shown, heading=by)]))
    blocks: list[Block] = [Pivot("group", "metric", format_count).table(counts, heading=by)]
    if not run["whole_requests"]:
        blocks.append("Groups hold parts of requests, so the cascade is not evaluated.")
    groups = len(group_by(counts, "group"))
    lead = f"Split {run['split']}, by {by}: {groups} groups. corank {corank_version()}."
    return View(f"{run['split']} by {by}: {groups:,} groups", lead, [*sections, Section("Rows", blocks)])


def plot_groups(document: Document, metric: str) -> list[Plot]:
    """A metric of every stage and label, group by group; nothing if no group has it."""
    shown = [row for _, rows in _shown_metrics(document["rows"], [metric]) for row in rows]
    return [_plot_groups(shown, document["run"]["by"], "{stage} {label}".format_map, metric)] if shown else []


def _plot_groups(rows: Sequence[Row], by: str, panel: Any, what: str) -> Plot:
    caption = f"{what} by {by}, with 95 % intervals over users"
    known = [{**row, "value": np.nan} if row["value"] is None else row for row in rows]
    return draw_values(known, panel, "group", caption)


def _shown_metrics(
    rows: Sequence[Row], metrics: Sequence[str]
) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Of each label and metric, the rows of the stages that have a value in some group."""
    exposed = [row for row in rows if row["population"] == "exposed" and row["metric"] in metrics]
    known = {(row["stage"], row["label"], row["metric"]) for row in exposed if row["value"] is not None}
    shown = [row for row in exposed if (row["stage"], row["label"], row["metric"]) in known]

    def place(row: Row) -> tuple[str, int]:
        return row["label"], metrics.index(row["metric"])

    for (label, n), of in groupby(sorted(shown, key=place), place):
        yield (label, metrics[n]), list(of)
