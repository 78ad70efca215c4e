"""The pages of a sweep and of a tuning: what was chosen and why, every arm or trial, the test of the chosen one.

Letters: P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from corank.analysis.colours import COLOURS, FAINT
from corank.analysis.comparison_page import draw_arms
from corank.analysis.experiments.tune import format_value
from corank.analysis.html import Cell, Html, folded, page, plot, render_block, section, table, text
from corank.analysis.plots import ACROSS, plot_rows
from corank.core.formatting import format_interval, format_metric
from corank.core.types import Doubles
from corank.core.version import corank_version

PANELS = 3
"""Metrics of the plot, at most."""
ARMS_ACROSS = 4
"""Arms of one table of all figures."""


def sweep_page(document: Mapping[str, Any]) -> Html:
    """The page of a sweep's document."""
    return page(
        f"{document['name']}: a sweep",
        f"Validation split: {document['requests']:,} requests, {document['candidates']:,} candidates. "
        f"{document['trials']} trials of {len(document['arms'])} arms, corank {corank_version()}.",
        section("What was chosen", text(document["verdict"]), *map(text, document["notes"])),
        section("How to read it", text(_method(document))),
        section("Beside the config as written", *_differences(document)),
        section("All figures", *_figures(document)),
        *tested_section(document),
        section(
            "Config", folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False))
        ),
    )


def _method(document: Mapping[str, Any]) -> str:
    return (
        f"An arm is the config with some keys set, trained with {document['seeds']} seeds and compared by "
        f"{document['metric']} of the validation split. A difference is on the same users, seed by seed; its 95 % "
        "interval is over users and seeds. Cannot tell: the interval contains 0. The best of many arms looks better "
        "than it is, since it was chosen by these figures; not so on the test split, which was read once, for the "
        "chosen arm alone."
    )


def _differences(document: Mapping[str, Any]) -> list[Html]:
    compared = {arm: result["to_base"] for arm, result in document["arms"].items() if result["to_base"]}
    if not compared:
        return [text("There is nothing to compare.")]
    common = [n for n in next(iter(compared.values())) if all(n in figures for figures in compared.values())]
    metrics = [document["metric"], *(name for name in common if name != document["metric"])][:PANELS]
    panels = {
        metric: {
            arm: (f[metric]["value"], f[metric]["low"], f[metric]["high"]) for arm, f in compared.items()
        }
        for metric in metrics
        if metric in common
    }
    return [render_block(draw_arms(panels, len(compared)))]


def _figures(document: Mapping[str, Any]) -> list[Html]:
    arms = document["arms"]
    names = list(dict.fromkeys(name for result in arms.values() for name in result["figures"]))
    tables = []
    for begin in range(0, len(arms), ARMS_ACROSS):
        part = list(arms)[begin : begin + ARMS_ACROSS]
        rows: list[list[Cell]] = [
            [name, *(_cell(arms[arm]["figures"].get(name)) for arm in part)] for name in names
        ]
        rows.append(["seconds a training", *(f"{arms[arm]['seconds']:.1f}" for arm in part)])
        tables.append(table(["", *part], rows))
    return tables


def _cell(figure: Mapping[str, Any] | None) -> Cell:
    if figure is None:
        return "–"
    value = format_metric(figure["value"])
    return value if figure["low"] is None else (value, format_interval((figure["low"], figure["high"])))


def tested_section(document: Mapping[str, Any]) -> list[Html]:
    """The section of the test split's figures, of the chosen config alone."""
    figures = document["test"]
    if figures is None:
        return [section("Test", text("The config has no test split."))]
    rows: list[list[Cell]] = [[name, _cell(figure)] for name, figure in figures.items()]
    said = (
        f"Read once, at the end, for “{document['chosen']}” alone, with the config's own seed. 95 % intervals are over "
        f"users. Its run is {document['run']}, its config {document['config_file']}."
    )
    return [section("Test", text(said), table(["figure", "value"], rows))]


def plot_history(figure: Figure, document: Mapping[str, Any]) -> None:
    """Draw the value of each trial, the best so far, and marks for trials that were ended early."""
    axes, trials = figure.subplots(), document["trials"]
    numbers = [trial["number"] for trial in trials if trial["value"] is not None]
    values = [trial["value"] for trial in trials if trial["value"] is not None]
    best = (np.minimum if document["better"] == "lower" else np.maximum).accumulate(values)
    axes.plot(numbers, values, linestyle="none", marker="o", color=COLOURS[0], label="trial")
    axes.step(numbers, best, where="post", color=COLOURS[1], linestyle="-", label="best so far")
    for n, number in enumerate(trial["number"] for trial in trials if trial["value"] is None):
        axes.axvline(
            number, ymax=0.04, color=FAINT, linestyle="-", label="" if n else "ended early or diverged"
        )
    axes.set(xlabel="trial", ylabel=document["metric"])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(loc="lower right")


def plot_frontier(figure: Figure, budget: Mapping[str, Any], y: str) -> None:
    """Draw the best value within each latency, with the intervals of latencies and the budget."""
    axes, values = figure.subplots(), [point["value"] for point in budget["frontier"]]
    us, low, high = ([p["us"][key] for p in budget["frontier"]] for key in ("median", "low", "high"))
    axes.step(us, values, where="post", color=COLOURS[0], linestyle="-")
    axes.plot(us, values, linestyle="none", marker="o", color=COLOURS[0])
    axes.hlines(values, low, high, color=COLOURS[0], linestyle="-", alpha=0.4)
    axes.axvline(budget["us"], color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set(xlabel="µs a request", ylabel=y)


def plot_importance(figure: Figure, importance: Mapping[str, float]) -> None:
    """Draw a bar a parameter."""
    axes = figure.subplots()
    names = sorted(importance, key=lambda name: importance[name])
    axes.barh(names, [importance[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set(xlabel="importance", xlim=(0, 1))
    axes.grid(axis="y", visible=False)


@dataclass(frozen=True)
class Slice:
    """A parameter against the result: (P,) each."""

    x: Sequence[float]
    y: Doubles
    log: bool
    ticks: Sequence[str]
    """Names of the values 0, 1, …, of a parameter that has choices; empty otherwise."""


def plot_slices(figure: Figure, slices: Mapping[str, Slice], y: str) -> None:
    """Draw every trial's result against each parameter, one panel a parameter."""
    axes = figure.subplots(plot_rows(len(slices)), ACROSS, sharey=True, squeeze=False)
    for part, (name, points) in zip(axes.ravel(), slices.items(), strict=False):
        part.plot(points.x, points.y, color=COLOURS[0], linestyle="none", marker="o", alpha=0.7)
        part.set_title(name, fontsize=8)
        if points.log:
            part.set_xscale("log")
        if points.ticks:
            part.set_xticks(np.arange(len(points.ticks)), points.ticks)
    for part in axes.ravel()[len(slices) :]:
        part.set_visible(False)
    for row in axes:
        row[0].set_ylabel(y)


def tune_page(document: Mapping[str, Any]) -> Html:
    """The page of a tuning's document."""
    complete = [t for t in document["trials"] if t["value"] is not None]
    history = (
        f"{document['metric']} by trial. Trial 1 is the config as written. Grey: ended early, or diverged."
    )
    return page(
        f"{document['name']}: a tuning",
        f"Validation split: {document['requests']:,} requests, {document['candidates']:,} candidates. "
        f"{len(document['trials'])} trials, {len(complete)} of them completed, seed {document['seed']}, corank "
        f"{corank_version()}.",
        section("What was chosen", text(document["verdict"]), text(_caution(document))),
        section("History", plot(partial(plot_history, document=document), history)),
        *_frontier(document),
        *_importance(document),
        section("Each parameter", *_slices(document, complete)),
        section("All trials", *_trials(document)),
        *tested_section(document),
        section(
            "Space and config",
            table(["parameter", "range"], [[name, span] for name, span in document["space"].items()]),
            folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False)),
        ),
    )


def _caution(document: Mapping[str, Any]) -> str:
    return (
        f"Trials are compared by {document['metric']} of the validation split, one seed each. The best of many looks "
        "better than it is: the test split below was read once, for the best trial alone. Compare a few candidates "
        "with seeds and intervals by corank sweep."
    )


def _frontier(document: Mapping[str, Any]) -> list[Html]:
    budget = document["budget"]
    if budget is None or not budget["frontier"]:
        return []
    caption = (
        f"The best {document['metric']} within each latency, of all trained funnels at all quotas. Dashed: the budget. "
        f"Latencies are medians with 95 % intervals, measured on {budget['machine']}."
    )
    draw = partial(plot_frontier, budget=budget, y=document["metric"])
    rows: list[list[Cell]] = [
        [
            (f"{point['us']['median']:,.0f}", f"{point['us']['low']:,.0f} … {point['us']['high']:,.0f}"),
            format_metric(point["value"]),
            str(point["trial"]),
            str(point["quota"]),
        ]
        for point in budget["frontier"]
    ]
    header = ["µs", document["metric"], "trial", "the first stage keeps"]
    return [section("Which funnel in how many µs", plot(draw, caption), table(header, rows))]


def _importance(document: Mapping[str, Any]) -> list[Html]:
    importance = document["importance"]
    if not importance:
        return []
    caption = (
        "How much each parameter decides whether a trial is among the better ones (PED-ANOVA). With few trials it is a "
        "hint."
    )
    drawn = plot(
        partial(plot_importance, importance=importance), caption, height=0.9 + 0.28 * len(importance)
    )
    return [section("Importance", drawn)]


def _slices(document: Mapping[str, Any], complete: list[dict[str, Any]]) -> list[Html]:
    known = [trial for trial in complete if trial["values"] is not None]
    if not known:
        return [text("There are no trials to plot.")]
    slices = {name: _slice(name, span, known) for name, span in document["space"].items()}
    caption = f"{document['metric']} of every trial that ended, against each parameter."
    draw = partial(plot_slices, slices=slices, y=document["metric"])
    return [plot(draw, caption, height=2.2 * plot_rows(len(slices)))]


def _slice(name: str, span: str, trials: list[dict[str, Any]]) -> Slice:
    values = [trial["values"][name] for trial in trials]
    y = np.array([trial["value"] for trial in trials], dtype=np.float64)
    if ".." in span:
        return Slice(values, y, span.endswith(" log"), [])
    texts = [format_value(value) for value in values]
    ticks = sorted(set(texts), key=lambda said: (len(said), said))
    return Slice([ticks.index(said) for said in texts], y, False, ticks)


def _trials(document: Mapping[str, Any]) -> list[Html]:
    names = list(document["space"])
    rows: list[list[Cell]] = []
    for trial in document["trials"]:
        values = trial["values"] or {}
        row: list[Cell] = [str(trial["number"]), format_metric(trial["value"]), trial["state"]]
        row += [format_value(values[name]) if name in values else "" for name in names]
        rows.append([*row, f"{trial['seconds']:.1f}"])
    return [table(["trial", document["metric"], "", *names, "seconds"], rows)]
