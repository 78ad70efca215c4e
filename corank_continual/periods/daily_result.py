"""What `corank daily` returns: the records of all periods as tables, a figure and JSON; and the page over them."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from corank.api.results import Result, draw_first, frame
from corank.core.errors import ConfigError
from corank.core.formatting import format_metric
from corank.core.view import Block, Cell, Detail, Noted, Plot, Section, Table, Verdict, View
from corank.data.join import JoinReport
from corank_continual.periods.gate import CheckedCondition, Condition
from corank_continual.periods.history import JUDGED, PeriodRecord, find_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis.plots import Series


Lines = dict[str, dict[str, "Series"]]
"""Lines by plot and label."""

PAGE = "index.html"
"""The page's file."""
_USUAL = ("auc", "gauc", "pcoc", "click_recall")
"""Metrics that are drawn in addition to those of the gate: of exposed candidates, and of cuts."""
_MOST = 12
"""Plots of figures, and features of the plot of drift, at most."""
NEWEST = 14
"""Periods whose figures at the gate are shown, at most."""
_LEAST_FIGURE, _LEAST_PSI, _LEAST_SECONDS = 0.1, 0.25, 1.0
"""Least range of the y axes: smaller changes are chance, no drift, no time."""
_BELOW = 0.18
"""Inches from an x axis to the text below its numbers."""
_DAY = len("2026-03-07")
"""Characters of a period's name of which three have room below a plot."""
_HOW = (
    "Each period's tables are validated against the live run, which is then judged on the period's rows before any of "
    "them is trained on (live, before training). A candidate goes on from the live run's weights. Both are compared "
    "on the second half of the holdout at the period's end (candidate; live, same rows). Figures of one period vary "
    "by chance; the period's comparison has intervals."
)


def daily_view(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> View:
    """What the history of a daily funnel shows: the newest period, all periods, and their figures."""
    live = find_live(records)
    lead = "No period is live." if live is None else f"Live: {live.period}, model {live.model}."
    all_periods = Table(
        ("period", "decision", "rows", "seconds", "why"), [*_rows(records)], prose=("decision", "why")
    )
    sections = [
        *_newest(records, gate),
        Section("Periods", [Detail([_HOW, all_periods]), *_pairs(records, gate)]),
    ]
    if drawn := _figures(records, gate):
        caption = "Figures by period: the gate's, and usual ones. Dotted: what today's gate asks for in each period."
        sections.append(_drawn("Figures", len(drawn), caption, partial(draw_history, records, gate)))
    if names := _most_drifted(records):
        caption = (
            "Population stability index (PSI) of the features that drifted most, against the live run's training rows: "
            "0, the same; above 0.25, usually called a large change."
        )
        draw = partial(_draw_columns, records, names, "drift", "PSI", _LEAST_PSI)
        sections.append(_drawn("Drift", len(names), caption, draw))
    if steps := list(dict.fromkeys(step for record in records for step in record.seconds)):
        draw = partial(_draw_columns, records, steps, "seconds", "seconds", _LEAST_SECONDS)
        sections.append(_drawn("Time spent", len(steps), "Wall seconds of each step.", draw))
    return View("Daily funnel", lead, sections)


def _drawn(title: str, count: int, caption: str, draw: "Callable[[Figure], object]") -> Section:
    """A section of so many small plots."""
    return Section(title, [Plot(draw, caption, 2.6 * -(-count // 3))])


def draw_history(records: Sequence[PeriodRecord], gate: Sequence[Condition], figure: "Figure") -> None:
    """Draw the gate's and the usual figures by period, with the gate's thresholds."""
    lines = {"live, before training": "live", "candidate": "candidate", "live, same rows": "reference"}
    drawn = {
        name: {label: line for label, of in lines.items() if len((line := _column(records, of, name)).x)}
        for name in _figures(records, gate)
    }
    _draw(records, drawn, figure, least=_LEAST_FIGURE, limits=_limits(records, gate))


def _draw_columns(
    records: Sequence[PeriodRecord], names: Sequence[str], of: str, unit: str, least: float, figure: "Figure"
) -> None:
    """Draw figures by period that are no less than 0."""
    lines = {name: {unit: _column(records, of, name)} for name in names}
    _draw(records, lines, figure, least, from_zero=True)


def _newest(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> Iterator[Section]:
    """The newest period's decision, and its candidate's figures at the gate."""
    if not records:
        return
    record = records[-1]
    checked = (_check(records, len(records) - 1, condition) for condition in gate)
    rows: list[list[Cell]] = [
        [
            one.condition.text,
            format_metric(one.value),
            "" if one.base is None else Noted(format_metric(one.base), str(one.condition.base)),
            Verdict("met", 1) if one.met else Verdict("not met", -1),
        ]
        for one in checked
        if one is not None
    ]
    blocks: list[Block] = [Detail(list(record.reasons))]  # a terminal has those of a refusal on stderr
    if rows:
        asked = "the gate asks for"
        blocks.append(Table([asked, "candidate", "compared with", ""], rows, prose=[asked]))
    yield Section(f"Newest period: {record.period}, {record.decision}", blocks)


def _pairs(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> Iterator[Table]:
    """The gate's figures in the newest periods: the candidate's, and beside it the live run's on the same rows."""
    names = list(dict.fromkeys(condition.figure for condition in gate))
    rows: list[list[Cell]] = []
    for record, cells in zip(reversed(records[-NEWEST:]), _rows(records), strict=False):
        pairs = (Noted(_format(record.candidate, name), _format(record.reference, name)) for name in names)
        rows.append([*cells[:4], *pairs])
    if rows:
        columns = ["period", "decision", "candidates", "seconds", *(name.replace(".", " ") for name in names)]
        yield Table(columns, rows, "The candidate, and beside it the live run", left=["decision"])


def _format(figures: Mapping[str, float], name: str) -> str:
    return format_metric(figures[name]) if name in figures else ""


def _check(records: Sequence[PeriodRecord], n: int, condition: Condition) -> CheckedCondition | None:
    """Check the candidate of the n-th period as its gate did; None without one, or if no run had such a figure."""
    record, live = records[n], [one.candidate for one in records[:n] if one.decision == "live"]
    with suppress(ConfigError):
        return condition.check(record.candidate, record.reference or None, live) if record.candidate else None
    return None


def _limits(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> Lines:
    """The gate's bounds in each period, by figure and condition: the lower ones, then the upper ones."""
    lines: Lines = {}
    for condition in gate:
        checked = {n: one for n in range(len(records)) if (one := _check(records, n, condition)) is not None}
        low, high = ([(n, getattr(one, end)) for n, one in checked.items()] for end in ("low", "high"))
        points = [*low, (0, None), *high, (0, None)]  # each line ends
        line = _series((n, np.nan if bound is None else bound) for n, bound in points)
        if not np.isnan(line.y).all():
            lines.setdefault(condition.figure, {})[condition.requirement] = line
    return lines


def _rows(records: Sequence[PeriodRecord]) -> Iterator[list[str]]:
    """All periods, the newest first: name, decision, rows, seconds, and why."""
    for record in reversed(records):
        rows = f"{sum(record.rows.values()):,}" if record.rows else ""
        seconds = f"{sum(record.seconds.values()):.0f}"
        yield [record.period, record.decision, rows, seconds, "; ".join(record.reasons)]


def _figures(records: Sequence[PeriodRecord], gate: Sequence[Condition]) -> list[str]:
    """The names of the figures that are drawn: the gate's, then usual ones, those of cuts first."""
    names = dict.fromkeys(name for record in records for name in record.candidate | record.live)
    usual = sorted(filter(is_usual, names), key=lambda name: ".exposed." in name)
    return list(dict.fromkeys([*(condition.figure for condition in gate), *usual]))[:_MOST]


def is_usual(name: str) -> bool:
    """Whether a figure is shown though the gate does not name it: AUC, GAUC, PCOC and click recall of what is shown."""
    return name.rpartition(".")[2].partition("@")[0] in _USUAL and ".candidates." not in name


def _most_drifted(records: Sequence[PeriodRecord]) -> list[str]:
    """The features whose drift was the largest in some period."""
    drifts = [(value, name) for record in records for name, value in record.drift.items()]
    largest = {name: value for value, name in sorted(drifts)}
    return sorted(filter(largest.get, largest), key=lambda name: (-largest[name], name))[:_MOST]


def _column(records: Iterable[PeriodRecord], of: str, name: str) -> "Series":
    """A figure by the number of the period, of those that have it."""
    return _series((n, figures[name]) for n, r in enumerate(records) if name in (figures := getattr(r, of)))


def _series(points: Iterable[tuple[int, float]]) -> "Series":
    """A line of points, none or more."""
    from corank.analysis.plots import Series

    coordinates = np.array([*points], dtype=np.float64).reshape(-1, 2)
    return Series(coordinates[:, 0], coordinates[:, 1])


def _draw(
    records: Sequence[PeriodRecord],
    plots: Lines,
    figure: "Figure",
    least: float,
    from_zero: bool = False,
    limits: Lines | None = None,
) -> None:
    """Draw a small plot a name, the periods' names below and dotted lines at its limits, each with a label."""
    from matplotlib.transforms import ScaledTranslation

    from corank.analysis.colours import INK
    from corank.analysis.plots import LINES, small_plots, widen_y

    small_plots(figure, plots, "period")
    most = 3 if all(len(record.period) <= _DAY for record in records) else 2
    shown = np.unique(np.linspace(0, len(records) - 1, min(len(records), most)).astype(int)).tolist()
    for axes, name in zip(figure.axes, plots, strict=False):
        for n, (label, line) in enumerate((limits or {}).get(name, {}).items()):
            dotted = LINES[3 + n % 2]
            axes.plot(line.x, line.y, color=INK, linestyle=dotted, marker="_", label=f"gate: {label}")
        if drawn := axes.lines[len(plots[name]) :]:
            below = axes.transAxes + ScaledTranslation(0, -_BELOW, figure.dpi_scale_trans)
            style: dict[str, Any] = {"fontsize": "small", "handlelength": 2.4, "bbox_transform": below}
            axes.legend(handles=drawn, loc="upper left", bbox_to_anchor=(0, 0), **style)
        axes.autoscale(True, "y")
        widen_y(axes, least, from_zero)
        axes.set_xticks(shown, [records[n].period for n in shown], fontsize="small")
        axes.set_xlabel("")


@dataclass(frozen=True)
class DailyResult(Result):
    """The history of a daily funnel.

    Example:
        >>> gate = "['rank.exposed.click.auc >= live - 0.5']"
        >>> text = f"{{config: config.yaml, first: 2026-03-10, verify: 2, gate: {gate}}}"
        >>> _ = Path("shop/daily.yaml").write_text(text)
        >>> corank.daily("shop/daily.yaml").tables["periods"].columns
        ['period', 'decision', 'reasons', 'model', 'version', 'seconds']
    """

    folder: Path
    """Of the history, its page, and the periods."""
    records: Sequence[PeriodRecord]
    """One a period that is over, in order."""
    gate: Sequence[Condition]
    """What a candidate must meet."""
    joined: JoinReport | None = None
    """What the join wrote, and how many rows wait for labels until when; None without a join."""

    @property
    def page(self) -> Path:
        """The page over all periods."""
        return self.folder / PAGE

    @property
    def live(self) -> PeriodRecord | None:
        """The record of the live run."""
        return find_live(self.records)

    @property
    def refused(self) -> PeriodRecord | None:
        """The newest period's record if it was refused."""
        newest = self.records[-1] if self.records else None
        return newest if newest is not None and newest.decision.startswith("refused") else None

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`periods`: a row a period; `figures`: one a period and figure of live, candidate and reference."""
        periods = (
            vars(record) | {"reasons": "; ".join(record.reasons), "seconds": sum(record.seconds.values())}
            for record in self.records
        )
        figures = (
            {"period": record.period, "of": of, "figure": name, "value": value}
            for record in self.records
            for of, name, value in record.figures()
            if of in JUDGED
        )
        texts = ("period", "decision", "reasons", "model", "version")
        return {
            "periods": frame(periods, texts, seconds=pl.Float64),
            "figures": frame(figures, ["period", "of", "figure"], value=pl.Float64),
        }

    @property
    def lines(self) -> Sequence[str]:
        """How many rows wait for labels, and where the page lies."""
        waiting = "" if self.joined is None else self.joined.describe_waiting()
        return [*([waiting] if waiting else []), f"page: {self.page}" if self.records else "no period is due"]

    @property
    def reasons(self) -> Sequence[str]:
        """Why the newest period was refused, a line each, and what to do; none if it was not."""
        if (refused := self.refused) is None:
            return ()
        lines = [*refused.reasons] or [refused.decision]
        if refused.decision == "refused by validation":
            lines.append(
                f"repair the tables and call again; or `--accept {refused.period}` if they are right, or "
                f"`--skip {refused.period}` to train on none of its rows"
            )
        return [f"{refused.period}: {line}" for line in lines]

    def view(self) -> View:
        """What the page shows."""
        return daily_view(self.records, self.gate)

    def plot(self) -> "Figure":
        """Draw the gate's figures by period, of candidate and live run. Returns a figure of matplotlib.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """
        return draw_first(self.view())

    def to_json(self) -> str:
        """All records as JSON text, as `corank daily --json` prints them."""
        return json.dumps([record.model_dump() for record in self.records], indent=1, allow_nan=False)
