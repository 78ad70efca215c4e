"""The page of experiments and tunings: what was chosen and why, arms or trials, the test."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from corank.analysis.colours import ACROSS, plot_rows
from corank.analysis.experiments.arms import BASE, format_value, format_values
from corank.analysis.pivot import Pivot, draw_values, group_by, value_cell
from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Cell, Detail, Folded, Noted, Plot, Section, Table, Verdict, View
from corank.evaluation.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import search_plots
else:
    search_plots = lazy("corank.analysis.search_plots")

BEST_TRIALS = 10
"""Trials that are drawn, and that a terminal lists."""
Document = Mapping[str, Any]
"""Of an experiment or a tuning: `rows` are figures and differences of arms or trials."""
_DIFFERENCE = partial(value_cell, signed=True)


def _figures(document: Document, split: str) -> list[Row]:
    """The means of figures on a split."""
    return [r for r in document["rows"] if r["split"] == split and r["base"] is None and r["rate"] is None]


def _differences(document: Document, base: str = BASE) -> list[Row]:
    """The differences of arms or trials to another, by the metric."""
    rows = document["rows"]
    return [row for row in rows if (row["base"], row["name"]) == (base, document["metric"])]


def experiment_view(document: Document) -> View:
    """The view of an experiment or a tuning: of the parts that its document has."""
    tuned = document["kind"] == "tune"
    files = f"Its config is {document['config_file']}, its run {document['run']}."
    chosen = [document["verdict"], files, *document.get("notes", ())]
    config = yaml.safe_dump(document["config"], sort_keys=False)
    what = document.get("title") or ("a tuning" if tuned else "an experiment")
    size = f"{document['requests']:,} requests, {document['candidates']:,} candidates"
    return View(
        f"{document['name']}: {what}",
        f"Split {document['split']}: {size}. {_describe_trials(document)}, corank {corank_version()}.",
        [
            Section("What was chosen", chosen),
            *(_trial_sections if tuned else _arm_sections)(document),
            _test_section(document),
            Section("How to read it", [Detail([_method(document)])]),
            Section("Config", [Folded("The config as written", config)]),
        ],
    )


def _describe_trials(document: Document) -> str:
    trials = document["trials"]
    if document["kind"] != "tune":
        return f"{trials} trials of {len(document['arms'])} arms, seeds an arm: {document['seeds']}"
    drawn = " of a grid" if document["seed"] is None else f" drawn with seed {document['seed']}"
    return f"{len(trials)} trials{drawn}, {len(_complete(document))} of them completed"


def _method(document: Document) -> str:
    """How arms or trials are compared, and how much a difference says."""
    seeds = "one seed each" if document["kind"] == "tune" else f"seeds each: {document['seeds']}"
    return (
        f"Compared by {document['metric']} of the validation split, {seeds}. A difference is to the config as written, "
        "on the same users, seed by seed, with a 95 % interval over users and seeds; grey: it contains 0. The best of "
        "many looks better than it is: these figures chose it. The test split was read once, for the chosen one."
    )


def _compared(document: Document, rows: Sequence[Row]) -> list[Block]:
    """The differences to the config as written by the metric, drawn."""
    if not rows:
        return []
    caption = (
        f"{document['metric']} less that of the config as written, with 95 % intervals. Right of 0: higher."
    )
    return [draw_values(rows, lambda row: document["metric"], "run", caption, from_zero=True)]


def _arm_sections(document: Document) -> list[Section]:
    """The arms by the metric, and all figures."""
    metric, figures = document["metric"], _figures(document, "valid")
    less = {
        title: {row["run"]: _DIFFERENCE(row) for row in _differences(document, base)}
        for base, title in {document["chosen"]: "less the best", BASE: "less as written"}.items()
    }
    values = {row["run"]: row["value"] for row in figures if row["name"] == metric}
    rows: list[list[Cell]] = []
    for arm, facts in document["arms"].items():
        parameters = sum((facts["parameters"] or {}).values())
        costs = [f"× {facts['rate']:.3g}", f"{parameters:,}"] if arm in values else ["", ""]
        value = format_metric(values[arm]) if arm in values else Verdict("diverged", -1)
        rows.append(
            [arm, value, *(of.get(arm, "–") for of in less.values()), *costs, f"{facts['seconds']:.1f}"]
        )
    costs = ["rate", "parameters", "seconds a training"]
    columns = ["arm", metric, *less, *costs]
    table = Table(columns, rows, f"{BASE}: the config itself", prose=("arm",), details=costs[:2])
    of = [*group_by(figures, "run").values()]
    pivot = Pivot("name", "run")
    every = [pivot.table(row for arm in of[n : n + ACROSS] for row in arm) for n in range(0, len(of), ACROSS)]
    drawn = _compared(document, _differences(document))
    return [
        Section("Beside the config as written", [*drawn, table]),
        Section("All figures", [Detail(every)]),
    ]


def _test_section(document: Document) -> Section:
    """The test split's figures, of the chosen config alone."""
    rows = _figures(document, "test")
    if not rows:
        return Section("Test", ["The config has no test split."])
    read = f"Read once, at the end, for “{document['chosen']}” alone, with 95 % intervals over users."
    return Section("Test", [read, Pivot("name", beside={"value": value_cell}).table(rows, heading="figure")])


def _trial_sections(document: Document) -> list[Section]:
    """The trials of a tuning: by latency, the best, by parameter, and the others."""
    complete = _complete(document)
    best = sorted(complete, key=lambda trial: trial["value"], reverse=document["better"] != "lower")
    order = {f"trial {trial['number']}": n for n, trial in enumerate(best[:BEST_TRIALS])}
    shown = [row for row in _differences(document) if row["run"] in order]
    drawn = _compared(document, sorted(shown, key=lambda row: order[row["run"]]))
    space = Table(["parameter", "range"], [[name, span] for name, span in document["space"].items()])
    table = _trials_table(document, best[:BEST_TRIALS])
    others = [trial for trial in document["trials"] if trial not in best[:BEST_TRIALS]]
    rest = [_trials_table(document, others)] if others else []
    return [
        *_frontier(document),
        Section("The best trials; 1 is the config as written", [*drawn, table]),
        *_slices(document, complete),
        Section("Other trials, and the ranges", [Detail([*rest, space])]),
    ]


def _complete(document: Document) -> list[Mapping[str, Any]]:
    return [trial for trial in document["trials"] if trial["value"] is not None]


def _frontier(document: Document) -> list[Section]:
    """The funnels that no faster one equals, with the measured latency of each."""
    budget, metric = document["budget"], document["metric"]
    if budget is None or not budget["frontier"]:
        return []
    trials = {trial["number"]: trial for trial in document["trials"]}
    caption = (
        f"The best {metric} within each latency, of all trained funnels at all quotas. Dashed: the budget."
    )
    measured = f"medians of latencies with 95 % intervals, on {budget['machine']}"
    rows = [
        [
            Noted(f"{us['median']:,.0f}", f"{us['low']:,.0f} … {us['high']:,.0f}"),
            Verdict("no", -1) if us["high"] > budget["us"] else "yes",
            format_metric(point["value"]),
            str(point["trial"]),
            str(point["quota"]),
            _describe_settings(trials[point["trial"]]),
        ]
        for point in budget["frontier"]
        for us in [point["us"]]
    ]
    columns = ["µs", f"within {budget['us']:g}", metric, "trial", "first stage keeps", "settings"]
    plot = Plot(lambda figure: search_plots.plot_frontier(figure, budget, metric), caption)
    table = Table(columns, rows, measured, prose=("settings",))
    return [Section("Latency against quality", [plot, table])]


def _describe_settings(trial: Mapping[str, Any]) -> str:
    return "  ".join(format_values(trial["values"] or {})) or BASE


def _slices(document: Document, complete: Sequence[Mapping[str, Any]]) -> list[Section]:
    metric, space = document["metric"], document["space"]
    known = [trial for trial in complete if trial["values"] is not None]
    if not known:
        return []

    def draw(figure: "Figure") -> None:
        slices = {name: _slice(span, [one["values"][name] for one in known]) for name, span in space.items()}
        search_plots.plot_slices(figure, slices, [one["value"] for one in known], metric)

    caption = f"{metric} of every trial that ended, against each parameter."
    return [Section("Each parameter", [Plot(draw, caption, 2.2 * plot_rows(len(space)))])]


def _slice(span: str, values: Sequence[Any]) -> "search_plots.Slice":
    if ".." in span:
        return search_plots.Slice(values, span.endswith(" log"))
    ordered = sorted(values, key=lambda value: value if isinstance(value, int | float) else np.inf)
    ticks = [*dict.fromkeys(map(format_value, ordered))]
    return search_plots.Slice([ticks.index(format_value(value)) for value in values], ticks=ticks)


def _trials_table(document: Document, trials: Sequence[Mapping[str, Any]]) -> Table:
    metric, parameters = document["metric"], [*document["space"]]
    to_base = {row["run"]: _DIFFERENCE(row) for row in _differences(document)}
    rows = [
        [
            str(trial["number"]),
            format_metric(trial["value"]),
            to_base.get(f"trial {trial['number']}", "–"),
            *(format_value(values[name]) if name in values else "–" for name in parameters),
            trial["state"],
            f"{trial['seconds']:.1f}",
        ]
        for trial in trials
        for values in [trial["values"] or {}]
    ]
    columns = ["trial", metric, "less as written", *parameters, "state", "seconds"]
    return Table(columns, rows, details=("state", "seconds"))
