"""Plots of searches: the best by latency, and values by parameter.

Letters: P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from corank.analysis.colours import ACROSS, COLOURS
from corank.analysis.plots import lay_out


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
