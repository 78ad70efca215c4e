"""The page over all periods: decisions, figures of live run and candidate, rows, drift and time spent."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corank.continual.gate import Condition
from corank.continual.history import PeriodRecord, find_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis.html import Cell
    from corank.analysis.plots import Series

PAGE = "index.html"
"""The page's file."""
_USUAL = ("auc", "gauc", "pcoc", "click_recall")
"""Metrics that are drawn beside those of the gate: of exposed candidates, and of the cascade."""
_MOST = 12
"""Plots of figures, and features of the plot of drift, at most."""
_HOW = (
    "Each period's tables are validated against the live run, which is then judged on the period's rows before any of "
    "them is trained on (live, before training). A candidate goes on from the live run's weights. Both are compared "
    "on the second half of the holdout at the period's end (candidate; live, same rows). Figures of one period vary "
    "by chance; the period's comparison has intervals."
)


def write_page(folder: Path, records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> None:
    """Write the page of a daily funnel. Raises CorankError if it cannot be written."""
    from corank.analysis.html import page, plot, section, table, text  # which load matplotlib
    from corank.core.files import write_text

    live = find_live(records)
    lead = "no period is live" if live is None else f"Live: {live.period}, model {live.model}."
    header = ("period", "decision", "rows", "seconds", "why")
    parts = [section("Periods", text(_HOW), table(header, _rows(records), prose=("decision", "why")))]
    if drawn := _figures(records, gate):
        height = 2.6 * -(-len(drawn) // 3)
        caption = "Figures by period: the gate's, and usual ones."
        parts.append(section("Figures", plot(partial(draw_history, records, gate), caption, height)))
    names = _most_drifted(records)
    if names:
        drawing = partial(_draw, records, {name: {"PSI": _column(records, "drift", name)} for name in names})
        caption = "Population stability index of the features that drifted most, against the live run's training rows."
        parts.append(section("Drift", plot(drawing, caption, 2.6 * -(-len(names) // 3))))
    steps = dict.fromkeys(step for record in records for step in record.seconds)
    if steps:
        drawing = partial(
            _draw, records, {step: {"seconds": _column(records, "seconds", step)} for step in steps}
        )
        parts.append(
            section("Time spent", plot(drawing, "Wall seconds of each step.", 2.6 * -(-len(steps) // 3)))
        )
    write_text(folder / PAGE, page("Daily funnel", lead, *parts))


def draw_history(
    records: Sequence[PeriodRecord], gate: Sequence[Condition], figure: "Figure | None" = None
) -> "Figure":
    """Draw the gate's and the usual figures by period, on a figure of matplotlib, a new one unless given."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained") if figure is None else figure
    lines = {"live, before training": "live", "candidate": "candidate", "live, same rows": "reference"}
    _draw(
        records,
        {
            name: {label: line for label, of in lines.items() if len((line := _column(records, of, name)).x)}
            for name in _figures(records, gate)
        },
        figure,
    )
    return figure


def _rows(records: Sequence[PeriodRecord]) -> list[list["Cell"]]:
    """The lines of the table of periods, the newest first."""
    return [
        [
            record.period,
            record.decision,
            f"{sum(record.rows.values()):,}" if record.rows else "",
            f"{sum(record.seconds.values()):.0f}",
            "; ".join(record.reasons),
        ]
        for record in reversed(records)
    ]


def _figures(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> list[str]:
    """The names of the figures that are drawn: the gate's, then usual ones, those of the cascade first."""
    found = dict.fromkeys(name for record in records for name in record.candidate | record.live)
    usual = sorted(filter(is_usual, found), key=lambda name: not name.startswith("cascade."))
    return list(dict.fromkeys([*(condition.figure for condition in gate), *usual]))[:_MOST]


def is_usual(name: str) -> bool:
    """Whether a figure is shown though the gate does not name it: AUC, GAUC, PCOC and click recall of what is shown."""
    return name.rpartition(".")[2].partition("@")[0] in _USUAL and ".candidates." not in name


def _most_drifted(records: Sequence[PeriodRecord]) -> list[str]:
    """The features whose drift was the largest in some period."""
    largest: dict[str, float] = {}
    for record in records:
        for name, value in record.drift.items():
            largest[name] = max(value, largest.get(name, 0.0))
    return sorted(largest, key=lambda name: (-largest[name], name))[:_MOST]


def _column(records: Iterable[PeriodRecord], of: str, name: str) -> "Series":
    """A figure by the number of the period, of those that have it."""
    from corank.analysis.plots import Series

    held = [(n, getattr(record, of)[name]) for n, record in enumerate(records) if name in getattr(record, of)]
    points = np.array(held, dtype=np.float64).reshape(-1, 2)
    return Series(points[:, 0], points[:, 1])


def _draw(records: Sequence[PeriodRecord], plots: dict[str, dict[str, "Series"]], figure: "Figure") -> None:
    """Draw a small plot a name, the periods' names below."""
    from corank.analysis.plots import small_plots

    small_plots(figure, plots, "period", markers=True)
    shown = np.unique(np.linspace(0, len(records) - 1, min(len(records), 3)).astype(int)).tolist()
    for axes in figure.axes:
        axes.set_xticks(shown, [records[n].period for n in shown], fontsize="small")
        axes.set_xlabel("")
