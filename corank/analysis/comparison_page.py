"""What `corank compare` and `corank compare-served` show: summaries, plots and tables."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from corank.analysis.colours import BAD, FAINT, GOOD
from corank.analysis.pivot import Beside, Pivot, difference_cell, format_count, group_by
from corank.core.formatting import format_metric, shorten
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Detail, Noted, Plot, Section, Table, Verdict, View
from corank.evaluation.rows import AGREEMENT, WORDS, Row
from corank.training.checks.findings import name_some

if TYPE_CHECKING:
    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

MAIN: dict[str, Sequence[str]] = {
    "cascade": ("joint_click_recall",),
    "cut": ("click_recall",),
    "exposed": ("auc", "gauc"),
}
"""Population → metrics of the summary, without their quotas."""
_HOW = (
    "A difference is a minus b on the same rows, with a 95 % interval over users, resampled alike for both; another "
    "seed alone may move figures by more. Better values are higher (↑), lower (↓) or near 1 (→1). Better and worse: "
    "the interval lies beyond the margin, 0 unless given. Not worse: it excludes that a is worse by more than that. "
    "Intervals are not corrected for multiple comparisons: expect one in twenty to mislead."
)
MOST_MAIN = 10
"""Figures of the summary, at most."""
SIGNS = {word: sign for sign, word in WORDS.items()}
"""Verdict → 1 if it is good, -1 if bad, otherwise 0."""
COLOURS = {1: GOOD, 0: FAINT, -1: BAD}
DIFFERENCE, VERDICT = "a\u00a0−\u00a0b", "a\u00a0is"
"""Names of columns that are one line."""
ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}
"""Better values of a metric, as tables mark them."""


class Names(NamedTuple):
    """The names of the two sides of a comparison."""

    a: str
    b: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Take the last segments of both paths, as many as differ."""
        one, other = (str(document[side]).rstrip("/").split("/") for side in "ab")
        count = range(1, max(len(one), len(other)) + 1)
        n = next((n for n in count if one[-n:] != other[-n:]), 1)
        return cls("/".join(one[-n:]), "/".join(other[-n:]))

    @property
    def headings(self) -> tuple[str, str]:
        """The names with their letters, for tables and figures."""
        return f"a: {self.a}", f"b: {self.b}"


def sign_of(row: Row) -> int:
    """1 if a is better, -1 if it is worse, otherwise 0."""
    return SIGNS.get(row["verdict"], 0)


def comparison_view(document: Mapping[str, Any]) -> View:
    """What a comparison's document shows."""
    names = Names.of(document)
    title = f"{names.a} against {names.b}"
    return View(title, describe_document(document), comparison_sections(document))


def comparison_sections(document: Mapping[str, Any]) -> list[Section]:
    """The main differences of a comparison drawn, what is compared, a table of each part, and how to read it."""
    names = Names.of(document)
    return [
        Section("Summary", [*_summary(document, names)]),
        Section("What is compared", [_sides(document, names)]),
        *part_sections(document["rows"]),
        Section("How to read it", [Detail([_HOW])]),
    ]


def part_sections(rows: Iterable[Row], before: str = "") -> Iterator[Section]:
    """A table of the differences of each part of a comparison."""
    for title, part in group_by(rows, title_of).items():
        yield Section(before + title, [_table(part)])


def title_of(row: Row) -> str:
    """The part of a comparison that a row belongs to."""
    population: str = row["population"]
    if population == "cut":
        return f"{row['stage']} against the last stage"
    return (
        population if population in ("cascade", "page") else f"{row['stage']}: {row['label']}, {population}"
    )


def _summary(document: Mapping[str, Any], names: Names) -> Iterator[Block]:
    """A count of all differences; the main ones drawn, and as a table for the terminal."""
    rows: list[Row] = document["rows"]
    count = Counter(map(sign_of, rows))
    yield f"Of all {len(rows)} figures, {names.a} is better in {count[1]} and worse in {count[-1]}."
    main = [
        {**row, "metric": " ".join(filter(None, (row["stage"], row["label"], row["metric"])))}
        for population, wanted in MAIN.items()
        for row in rows
        if row["population"] == population and row["metric"].partition("@")[0] in wanted
    ][:MOST_MAIN]
    if main:
        caption = "Differences, a − b, with 95 % intervals over users. Green: a is better; red: worse; grey: unclear."
        yield _plot({row["metric"]: row for row in main}, caption)
        yield _table(main)


def _sides(document: Mapping[str, Any], names: Names) -> Table:
    """The paths of both, and the keys in which their configs differ, if they are runs."""
    rows = [["path", document["a"], document["b"]]]
    for key, value in document.get("changes", {}).items():
        rows.append([key, *("–" if value[side] is None else shorten(str(value[side])) for side in "ab")])
    if document.get("changes") == {}:
        rows.append(["config", "the same", "the same"])
    return Table(["", *names.headings], rows, prose=names.headings)


def describe_document(document: Mapping[str, Any]) -> str:
    """The compared data and corank's version, as text."""
    description = f"{_describe_rows(document)}. corank {corank_version()}."
    if any(document["margins"].values()):
        margins = ", ".join(f"{name} {value:g}" for name, value in document["margins"].items())
        description += f" Margins: {margins}."
    if "trees" in document:
        description += f" {describe_trees(document['trees'])}."
    if "on" in document:
        lost = "; ".join(
            f"{run}: {', '.join(f'{name} {count:,}' for name, count in values.items())}"
            for run, values in document["lost"].items()
            if values
        )
        description += f" Both judged on {document['on']}. "
        description += f"Values that a run knows and that count as unknown there: {lost}." if lost else ""
    return description


def describe_trees(facts: Mapping[str, Any]) -> str:
    """Say how the settings of trees were chosen, and what they read."""
    settings = ", ".join(f"{name}: {value:g}" for name, value in facts["settings"].items())
    read = f"which read {facts['columns']:,} columns"
    if facts["left_out"]:
        read += f", without {name_some(facts['left_out'])}"
    chosen = f"best of {facts['tried']} settings on valid" if facts["tried"] > 1 else "default settings"
    return f"trees: the {chosen} ({settings}), {read}"


def _describe_rows(document: Mapping[str, Any]) -> str:
    """The compared data (a split, a log or scores) and its number of rows, as text."""
    texts = {
        "requests": "requests",
        "candidates": "candidates",
        "unknown": "more without a score left out of both",
        "earlier": "more from before a bundle's snapshot left out of both",
    }
    counts = [f"{document[key]:,} {text}" for key, text in texts.items() if document.get(key)]
    return f"{document.get('split') or document.get('log', 'scores')}: {', '.join(counts)}"


def _plot(figures: Mapping[str, Row], caption: str) -> Plot:
    """Draw differences with their intervals, coloured by their verdicts."""
    panel = {label: _difference(row) for label, row in figures.items()}
    colours = {label: COLOURS[sign_of(row)] for label, row in figures.items()}
    height = 0.7 + 0.22 * len(panel)
    return Plot(lambda figure: plots.plot_values(figure, {"a − b": panel}, True, colours), caption, height)


def _difference(row: Row) -> tuple[float, float | None, float | None]:
    """A difference and its bounds."""
    return row["difference"], row["low"], row["high"]


_COMPARED: Beside = {
    "a": lambda row: format_metric(row["a"]),
    "b": lambda row: format_metric(row["b"]),
    DIFFERENCE: difference_cell,
    VERDICT: lambda row: Verdict("unclear" if row["verdict"] == WORDS[0] else row["verdict"], sign_of(row)),
}
_MARGINS: Beside = {
    "margin": lambda row: f"{row['margin']:g}",
    "not worse": lambda row: "yes" if row["not_worse"] else "no",
}


def _table(rows: Sequence[Row]) -> Table:
    """A row a metric. Columns of margins are left out where none was asked."""
    beside = {**_COMPARED, **(_MARGINS if any(row["margin"] for row in rows) else {})}
    named = ({**row, "label": f"{row['metric']} {ARROWS[row['better']]}"} for row in rows)
    return Pivot("label", beside=beside).table(named, heading="metric", left=(DIFFERENCE, VERDICT))


def _format_bounds(row: Row, prefix: str = "", digits: int = 4) -> str:
    """The interval of a difference, as text."""
    low, high = (row.get(f"{prefix}{bound}") for bound in ("low", "high"))
    return "" if low is None or high is None else f"{low:+.{digits}f} … {high:+.{digits}f}"


HOW = (
    "An interval over time holds at all looks at once, with probability {sure:g} %: whoever looks every day and stops "
    "when it excludes 0 is misled no more often than that. It is wider than an interval of 95 % for a single look at a "
    "time that was fixed ahead, which is shown beside it. Users are clusters: what one user does counts as one. "
    "Figures are not corrected for there being several."
)


def served_view(document: Mapping[str, Any]) -> View:
    """What the document of `corank compare-served` shows."""
    exposures = "No exposures were given: there are no figures of labels."
    if counts := document.get("exposures"):
        unknown = f"{counts['unknown']:,} are of requests that no log has"
        exposures = f"{counts['rows']:,} exposures, of which {unknown}."
    lead = f"{exposures} corank {corank_version()}."
    if document["incomplete"]:
        lead += f"\n{document['incomplete']}."
    how = Section("How to read it", [Detail([HOW.format(sure=100 * (1 - document["alpha"]))])])
    return View("Versions that served", lead, [*_served_sections(document), how])


def _describe_served(document: Mapping[str, Any]) -> list[str]:
    """The facts of a comparison, one a line."""
    requests = document["requests"]
    lines = [
        *(f"{side}: {document[side]}, by {', '.join(document['versions'][side])}" for side in "ab"),
        f"from {document['from']} until {document['until']} UTC",
    ]
    if document["how"] == "mirrored":
        shared = f"{document['candidates']:,} candidates in common"
        return [*lines, f"{requests:,} requests that both ranked, {shared}"]
    users = document["users"]
    lines.append(
        f"a: {requests['a']:,} requests of {users['a']:,} users; b: {requests['b']:,} of {users['b']:,}; "
        f"{100 * document['share_of_requests']:.2f} % of requests are a's"
    )
    if ratio := document.get("sample_ratio"):
        lines.append(_describe_ratio(ratio))
    if document["users_in_both"]:
        lines.append(
            f"{document['users_in_both']:,} users had both: the share was changed, or the proxy sent them on; choose a "
            "time with one share by --since and --until"
        )
    return lines


def _describe_ratio(ratio: Mapping[str, Any]) -> str:
    """Whether users were assigned as the share says, as text."""
    observed = "-" if ratio["observed"] is None else f"{100 * ratio['observed']:.2f} %"
    summary = (
        f"{observed} of {ratio['users']:,} users had a, of {100 * ratio['expected']:g} % that were to; "
        f"p {ratio['p']:.2g} at every look"
    )
    if not ratio["mismatch"]:
        return summary
    return (
        f"warning: {summary}: users were not assigned as the share says, so that a and b are not comparable; look for "
        "requests that are lost, logged twice or answered by another version, and choose a time with one share"
    )


def _describe_agreement(row: Row) -> str:
    metric, _, top = row["metric"].partition("@")
    words = {
        "overlap": f"share of the first {top} in both",
        "same_first": "requests with the same first item",
        "rank_difference": f"mean difference of ranks of the first {top}",
        "score": f"{row['stage']}: mean score, a and b",
        "mean_absolute": f"{row['stage']}: mean absolute difference",
        "p99_absolute": f"{row['stage']}: its 99th percentile",
        "correlation": f"{row['stage']}: correlation",
    }
    return words[metric]


def _agreement_cell(row: Row) -> str:
    sides = [row["value"]] if "value" in row else [row["a"], row["b"]]
    return ", ".join(map(format_metric, sides))


def _precise_difference(row: Row) -> Noted:
    difference = "–" if row["difference"] is None else f"{row['difference']:+.5f}"
    return Noted(difference, _format_bounds(row, digits=5))


_AGREEMENT = Pivot(_describe_agreement, beside={"value": _agreement_cell})
_OVER_TIME = Pivot("metric", beside={**_COMPARED, DIFFERENCE: _precise_difference})


def _served_sections(document: Mapping[str, Any]) -> Iterator[Section]:
    """Facts, agreement, differences over time, and metrics of the stages."""
    of = group_by(document["rows"], "population")
    agreement, over_time = of.pop(AGREEMENT, []), group_by(of.pop("served", []), "metric")
    last = [looks.pop() for looks in over_time.values()]  # of all data, behind those of each look
    blocks: list[Block] = [*_describe_served(document)]
    if agreement:
        blocks.append(_AGREEMENT.table(agreement, heading="agreement"))
    if last:
        title = "Intervals over time, that hold at every look"
        prose = {"prose": ("figure", VERDICT), "left": (DIFFERENCE,)}
        blocks.append(_OVER_TIME.table(last, title, "figure", **prose))
    yield Section(f"a, {document['how']}: {document['verdict']}", blocks)
    for row in last:
        looks = over_time[row["metric"]]
        known = {one["group"].replace("T", " "): one for one in looks if one["low"] is not None}
        if known:
            caption = (
                "Differences of all data until a moment, UTC, with the interval over time. For a single look, at a "
                f"time that was fixed ahead, the 95 % interval is {_format_bounds(row, 'fixed_', 5)}. "
                "Green: a is better; red: worse; grey: no difference shown yet."
            )
            yield Section(row["metric"], [_plot(known, caption)])
    yield from part_sections(chain.from_iterable(of.values()))


_EQUAL: Beside = {
    "largest difference": lambda row: "–" if row["value"] is None else f"{row['value']:.2g}",
    "differ": lambda row: f"{row['differ']:,}",
    "of": format_count,
}
_WHERE: Beside = {"most in": lambda row: row["where"]}
"""Shown where something differs."""


def agreement_view(document: Mapping[str, Any]) -> View:
    """What a document of numbers that were computed twice shows."""
    rows, counted = document["rows"], [name for name in ("requests", "candidates") if name in document]
    counts = ", ".join(f"{document[name]:,} {name}" for name in counted)
    differ = document.get("differ", sum(row["differ"] for row in rows))
    largest = max((row["value"] or 0.0 for row in rows), default=0.0)
    lead = f"{counts}{': ' if counts else ''}{differ:,} differ, by {largest:.2g} at most"
    if "skipped" in document:
        lead += f"; {document['skipped']:,} requests of versions that were removed"
    beside = {**_EQUAL, **(_WHERE if any(row["where"] for row in rows) else {})}
    table = Pivot(lambda row: f"{row['stage']} {row['metric']}".strip(), beside=beside)
    return View("Agreement", lead, [Section("", [table.table(rows, left=["most in"])] if rows else [])])
