"""Plots of a tuning: its history, its parameters' importance, and each parameter against the result.

Letters: P points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from corank.analysis.drawing import COLOURS, FAINT
from corank.analysis.plots import ACROSS, plot_rows
from corank.core.types import Doubles


@dataclass(frozen=True)
class TuningHistory:
    """The trials of a tuning that ended, and those that did not."""

    numbers: Sequence[int]
    values: Sequence[float]
    best: Sequence[float]
    """The best value up to each trial."""
    ended_early: Sequence[int]


def plot_history(figure: Figure, history: TuningHistory, y: str) -> None:
    """Draw the value of each trial, the best so far, and marks for trials that were ended early."""
    axes = figure.subplots()
    axes.plot(history.numbers, history.values, linestyle="none", marker="o", color=COLOURS[0], label="trial")
    axes.step(
        history.numbers, history.best, where="post", color=COLOURS[1], linestyle="-", label="best so far"
    )
    for n, number in enumerate(history.ended_early):
        axes.axvline(
            number, ymax=0.04, color=FAINT, linestyle="-", label="" if n else "ended early or diverged"
        )
    axes.set(xlabel="trial", ylabel=y)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(loc="lower right")


@dataclass(frozen=True)
class Frontier:
    """Funnels by latency: (P,) each."""

    us: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    values: Sequence[float]


def plot_frontier(figure: Figure, frontier: Frontier, budget: float, y: str) -> None:
    """Draw the best value within each latency, with the intervals of latencies and the budget."""
    axes = figure.subplots()
    axes.step(frontier.us, frontier.values, where="post", color=COLOURS[0], linestyle="-")
    axes.plot(frontier.us, frontier.values, linestyle="none", marker="o", color=COLOURS[0])
    axes.hlines(frontier.values, frontier.low, frontier.high, color=COLOURS[0], linestyle="-", alpha=0.4)
    axes.axvline(budget, color=COLOURS[1], linestyle="--", linewidth=1)
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
