"""What `corank compare` and `corank compare-served` show: summaries, plots and tables."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from corank.analysis.colours import BAD, FAINT, GOOD
from corank.core.formatting import format_metric, shorten
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Cell, Detail, Noted, Plot, Section, Table, Verdict, View, bounded
from corank.metrics.inputs import Population
from corank.metrics.metric import metric_direction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

WORDS = {1: "better", -1: "worse", 0: "no difference shown"}
"""Verdict by the sign of the first side's difference to the second, if its interval lies beyond the margin."""
WIDER = 10
"""Metrics whose differences reach over this many times as far as others' get an axis of their own."""
MAIN: dict[str, Sequence[str]] = {
    "cascade": ("joint_click_recall",),
    "cut": ("click_recall",),
    "exposed": ("auc", "logloss_calibrated"),
}
"""Population → metrics of the summary, without their quotas."""
_OTHER = "Differences of another size: mind the axis. "
_SEEDS = " Intervals are over users: another seed alone may move figures by more."
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


class ComparedFigure(NamedTuple):
    """A metric that both sides have."""

    name: str
    population: Population
    values: Mapping[str, Any]
    """Its comparison, as the document has it."""

    @property
    def sign(self) -> int:
        """1 if a is better, -1 if it is worse, otherwise 0."""
        return SIGNS[self.values["verdict"]]


def comparison_view(document: Mapping[str, Any]) -> View:
    """What a comparison's document shows."""
    names = Names.of(document)
    title = f"{names.a} against {names.b}"
    return View(title, describe_document(document), comparison_sections(document))


def comparison_sections(document: Mapping[str, Any]) -> list[Section]:
    """The summary of a comparison, what is compared, how to read it, and each of its parts: a plot and a table."""
    how = (
        "A difference is a minus b on the same rows. Its 95 % interval is over users, resampled alike for both. "
        "Better values of a metric are higher (↑), lower (↓) or near 1 (→1). "
        "Better and worse are of a, and said if the interval lies beyond the margin that was asked, 0 unless given; "
        "otherwise it is unclear whether they differ. Not worse: the interval excludes that a is worse by more than "
        "the margin. Intervals are not corrected for multiple comparisons: expect one in twenty to mislead. Of runs "
        "one training of each is compared, and another seed trains another model: compare several by "
        "`corank experiment`."
    )
    names = Names.of(document)
    return [
        Section("Summary", [*_summary(document, names)]),
        Section("What is compared", [_sides(document, names)]),
        Section("How to read it", [Detail([how])]),
        *(Section(title, draw_differences(part, names)) for title, part in _parts(document)),
    ]


def _summary(document: Mapping[str, Any], names: Names) -> Iterator[Block]:
    """Metrics that are better, worse and undecided: the main ones in words, drawn and as a table; a count of all."""
    every = [(f"{name} ({title})", one) for title, part in _parts(document) for name, one in part.items()]
    chosen = (
        (label, one)
        for population, wanted in MAIN.items()
        for label, one in every
        if one.population == population and one.name.partition("@")[0] in wanted
    )
    main = dict(islice(chosen, MOST_MAIN))
    for word, sign in SIGNS.items():
        said = "; ".join(_describe_figure(label, one) for label, one in main.items() if one.sign == sign)
        if said and sign:
            yield f"{names.a} is {word} than {names.b}, by a − b and its 95 % interval: {said}."
        elif said:
            yield f"No difference is shown beyond {_noise(main.values())}: {said}."
    count = Counter(one.sign for _, one in every)
    seeds = "" if "changes" not in document else _SEEDS
    yield f"Of all {len(every)} figures, {names.a} is better in {count[1]} and worse in {count[-1]}.{seeds}"
    if main:
        yield Detail(draw_differences(main, names))


def _describe_figure(label: str, one: ComparedFigure) -> str:
    amount = f" {one.values['difference']:+.4f} [{_format_bounds(one.values)}]" if one.sign else ""
    return f"{label}{amount}"


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
    if "on" in document:
        lost = "; ".join(
            f"{run}: {', '.join(f'{name} {count:,}' for name, count in values.items())}"
            for run, values in document["lost"].items()
            if values
        )
        description += f" Both judged on {document['on']}. "
        description += f"Values that a run knows and that count as unknown there: {lost}." if lost else ""
    return description


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


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, ComparedFigure]]]:
    """The parts of a comparison that have figures: title and figures by name."""
    parts: list[tuple[str, Population, Mapping[str, Any]]] = [
        (f"{stage}: {label}, {population}", population, metrics)
        for stage, populations in document["stages"].items()
        for population, labels in populations.items()
        for label, metrics in labels.items()
    ]
    for stage, metrics in document.get("cuts", {}).items():
        parts.append((f"{stage} against the last stage", "cut", metrics))
    parts.append(("cascade", "cascade", document.get("cascade", {})))
    for title, population, metrics in parts:
        if metrics:
            yield title, {n: ComparedFigure(n, population, values) for n, values in metrics.items()}


def _split_by_reach(figures: Mapping[str, ComparedFigure]) -> list[dict[str, ComparedFigure]]:
    """Split metrics by how far from 0 their differences reach, so that an axis shows the intervals of all its metrics.

    A metric that reaches over WIDER times as far as the least of an axis is drawn on another one. The axis of the
    first metric is the first.
    """
    reach = {
        label: max(abs(value) for value in _difference(one.values) if value is not None)
        for label, one in figures.items()
    }
    axis_of, axis, least = dict[str, int](), 0, 0.0
    for label in sorted(figures, key=reach.__getitem__):
        if least and reach[label] > WIDER * least:
            axis, least = axis + 1, 0.0
        axis_of[label] = axis
        least = least or reach[label]
    order = dict.fromkeys(axis_of[label] for label in figures)
    return [{label: one for label, one in figures.items() if axis_of[label] == n} for n in order]


def draw_differences(figures: Mapping[str, ComparedFigure], names: Names) -> list[Block]:
    """The differences of metrics as plots, and a table; each metric under its key."""
    caption = (
        f"Differences of {names.a} to {names.b} with 95 % intervals over users. Green: {names.a} is better; red: "
        f"worse; grey: no difference beyond {_noise(figures.values())}."
    )
    blocks: list[Block] = []
    for axis in _split_by_reach(figures):
        labels = {f"{label}, {WORDS[one.sign]}" if one.sign else label: one for label, one in axis.items()}
        panel = {label: _difference(one.values) for label, one in labels.items()}
        colours = {label: COLOURS[one.sign] for label, one in labels.items()}
        other = _OTHER if blocks else ""
        blocks.append(Plot(partial(_draw, panel, colours), other + caption, 0.7 + 0.22 * len(axis)))
    return [*blocks, _table(figures)]


Bounded = tuple[float, float | None, float | None]
"""A difference and its bounds."""


def _draw(panel: Mapping[str, Bounded], colours: Mapping[str, str] | None, figure: "Figure") -> None:
    plots.intervals(figure, {"a − b": panel}, colours)


def _difference(values: Mapping[str, Any]) -> Bounded:
    return values["difference"], values["low"], values["high"]


def _table(figures: Mapping[str, ComparedFigure]) -> Table:
    """A row a metric. Columns of margins are left out where none was asked."""
    asked = _asked(figures.values())
    rows: list[list[Cell]] = []
    for label, one in figures.items():
        values, (difference, *bounds) = one.values, _difference(one.values)
        margin = [f"{values['margin']:g}", "yes" if values["not_worse"] else "no"] * asked
        rows.append(
            [
                f"{label} {ARROWS[metric_direction(one.name, one.population)]}",
                format_metric(values["a"]),
                format_metric(values["b"]),
                bounded(difference, bounds, signed=True),
                Verdict(values["verdict"] if one.sign else "unclear", one.sign),
                *margin,
            ]
        )
    columns = ["metric", "a", "b", DIFFERENCE, VERDICT, *["margin", "not worse"] * asked]
    return Table(columns, rows, left=(DIFFERENCE, VERDICT))


def _asked(figures: Iterable[ComparedFigure]) -> bool:
    """Whether a margin was asked."""
    return any(one.values["margin"] for one in figures)


def _noise(figures: Iterable[ComparedFigure]) -> str:
    """The bound that a shown difference exceeds."""
    return "the margin" if _asked(figures) else "noise"


def _format_bounds(one: Mapping[str, Any], prefix: str = "", digits: int = 4) -> str:
    """The interval of a difference, as text."""
    low, high = (one.get(f"{prefix}{bound}") for bound in ("low", "high"))
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
        unknown = f"{counts['unknown']:,} are of requests that the log does not have"
        exposures = f"{counts['rows']:,} exposures, of which {unknown}."
    lead = f"{document['log']}. {exposures} corank {corank_version()}."
    if document["incomplete"]:
        lead += f"\n{document['incomplete']}."
    roles = [role for role in ("canary", "shadow") if document[role] is not None]
    sections = chain.from_iterable(_role_sections(role, document[role]) for role in roles)
    how = Section("How to read it", [Detail([HOW.format(sure=100 * (1 - document["alpha"]))])])
    return View("Versions that served", lead, [*sections, how])


def _describe_part(part: Mapping[str, Any]) -> list[str]:
    """The facts of a comparison, one a line."""
    requests = part["requests"]
    lines = [f"a: {part['a']}; b: {part['b']}", f"from {part['from']} until {part['until']} UTC"]
    if isinstance(requests, int):
        shared = f"{part['candidates']:,} candidates in common"
        return [*lines, f"{requests:,} requests that both ranked, {shared}"]
    users = part["users"]
    lines.append(
        f"a: {requests['a']:,} requests of {users['a']:,} users; b: {requests['b']:,} of {users['b']:,}; "
        f"{100 * part['share_of_requests']:.2f} % of requests are a's"
    )
    if ratio := part.get("sample_ratio"):
        lines.append(_describe_ratio(ratio))
    if part["users_in_both"]:
        lines.append(
            f"{part['users_in_both']:,} users had both: the share was changed, or the canary failed; choose a time "
            "with one share by --since and --until"
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


def _agreement_rows(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How near the shadow's answers and scores are to the live version's: figure and value."""
    agreement = part["agreement"]
    figures = {
        f"share of the first {agreement['top']} in both": [agreement["overlap"]],
        "requests with the same first item": [agreement["same_first"]],
        f"mean difference of ranks of the first {agreement['top']}": [agreement["rank_difference"]],
    }
    for stage, scores in part["scores"].items():
        figures |= {
            f"{stage}: mean score, a and b": [scores["a"], scores["b"]],
            f"{stage}: mean absolute difference": [scores["mean_absolute"]],
            f"{stage}: its 99th percentile": [scores["p99_absolute"]],
            f"{stage}: correlation": [scores["correlation"]],
        }
    return [(name, ", ".join(map(format_metric, values))) for name, values in figures.items()]


def _role_sections(role: str, part: Mapping[str, Any]) -> Iterator[Section]:
    """What is said of the canary or of the shadow: facts, agreement, differences over time, and metrics of stages."""
    blocks: list[Block] = [*_describe_part(part)]
    if "agreement" in part:
        blocks.append(Table(["agreement", "value"], _agreement_rows(part)))
    if part["sequential"]:
        blocks.append(_over_time(part["sequential"]))
    yield Section(f"The {role}: {part['verdict']}", blocks)
    for figure, result in part["sequential"].items():
        panel = {one["until"]: _difference(one) for one in result["looks"] if one["low"] is not None}
        if panel:
            caption = (
                "Differences of all data until a moment, UTC, with the interval over time. For a single look, at a "
                f"time that was fixed ahead, the 95 % interval is {_format_bounds(result, 'fixed_', 5)}."
            )
            draw = partial(_draw, panel, None)
            yield Section(f"{role}: {figure}", [Plot(draw, caption, 0.7 + 0.2 * len(panel))])
    for title, compared in _parts({"stages": part["stages"]}):
        yield Section(f"{role}: {title}", draw_differences(compared, Names.of(part)))


def _over_time(results: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for figure, one in results.items():
        difference = "–" if one["difference"] is None else f"{one['difference']:+.5f}"
        values = [format_metric(one.get(side)) for side in "ab"]
        verdict = Verdict(one["verdict"], SIGNS.get(one["verdict"], 0))
        rows.append([figure, *values, Noted(difference, _format_bounds(one, digits=5)), verdict])
    title, columns = "Intervals over time, that hold at every look", ["figure", "a", "b", DIFFERENCE, VERDICT]
    return Table(columns, rows, title, prose=("figure", VERDICT), left=(DIFFERENCE,))
