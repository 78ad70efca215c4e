"""The page of a tuning: what was chosen, its history, what mattered, every trial, the test of the chosen one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import yaml

from corank.analysis.html import Cell, Html, folded, page, plot, section, table, text
from corank.analysis.plots import plot_rows
from corank.analysis.search.sweep_page import tested_section
from corank.analysis.search.tune import format_value
from corank.analysis.search.tune_plots import (
    Frontier,
    Slice,
    TuningHistory,
    plot_frontier,
    plot_history,
    plot_importance,
    plot_slices,
)
from corank.core.formatting import format_metric
from corank.core.version import corank_version


def tune_page(document: Mapping[str, Any]) -> Html:
    """The page of a tuning's document."""
    complete = [t for t in document["trials"] if t["value"] is not None]
    return page(
        f"{document['name']}: a tuning",
        f"Validation split: {document['requests']:,} requests, {document['candidates']:,} candidates. "
        f"{len(document['trials'])} trials, {len(complete)} of them completed, seed {document['seed']}, corank "
        f"{corank_version()}.",
        section("What was chosen", text(document["verdict"]), text(_caution(document))),
        section("History", *_history(document, complete)),
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


def _history(document: Mapping[str, Any], complete: list[dict[str, Any]]) -> list[Html]:
    values = [trial["value"] for trial in complete]
    best = np.minimum.accumulate(values) if document["better"] == "lower" else np.maximum.accumulate(values)
    ended = [trial["number"] for trial in document["trials"] if trial["value"] is None]
    history = TuningHistory([trial["number"] for trial in complete], values, best.tolist(), ended)
    caption = (
        f"{document['metric']} by trial. Trial 1 is the config as written. Grey: ended early, or diverged."
    )
    return [plot(partial(plot_history, history=history, y=document["metric"]), caption)]


def _frontier(document: Mapping[str, Any]) -> list[Html]:
    budget = document["budget"]
    if budget is None or not budget["frontier"]:
        return []
    points = budget["frontier"]
    us = [point["us"] for point in points]
    frontier = Frontier(
        [one["median"] for one in us],
        [one["low"] for one in us],
        [one["high"] for one in us],
        [point["value"] for point in points],
    )
    caption = (
        f"The best {document['metric']} within each latency, of all trained funnels at all quotas. Dashed: the budget. "
        f"Latencies are medians with 95 % intervals, measured on {budget['machine']}."
    )
    draw = partial(plot_frontier, frontier=frontier, budget=budget["us"], y=document["metric"])
    rows: list[list[Cell]] = [
        [
            (f"{one['median']:,.0f}", f"{one['low']:,.0f} … {one['high']:,.0f}"),
            format_metric(point["value"]),
            str(point["trial"]),
            str(point["quota"]),
        ]
        for one, point in zip(us, points, strict=True)
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
