"""Plots of searches: values by trial, the best by latency, and values by parameter.

Letters: P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from corank.analysis.colours import ACROSS, COLOURS, FAINT
from corank.analysis.plots import lay_out


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


@dataclass(frozen=True)
class Slice:
    """The values of a parameter: (P,)."""

    x: Sequence[float]
    log: bool = False
    ticks: Sequence[str] = ()
    """Names of the values 0, 1, …, of a parameter that has choices; empty otherwise."""


def plot_slices(figure: Figure, slices: Mapping[str, Slice], values: Sequence[float], y: str) -> None:
    """Draw every trial's result, one of P `values`, against each parameter, one panel a parameter."""
    for part, _, points in lay_out(figure, slices, ACROSS, sharey=True):
        part.plot(points.x, values, color=COLOURS[0], linestyle="none", marker="o", alpha=0.7)
        if points.log:
            part.set_xscale("log")
            part.minorticks_off()
            ends = sorted({min(points.x), max(points.x)})
            part.set_xticks(ends, [f"{end:.2g}" for end in ends])
        if points.ticks:
            part.set_xticks(np.arange(len(points.ticks)), points.ticks)
    for part in figure.axes[::ACROSS]:
        part.set_ylabel(y)
