"""The pages of `corank compare` and `corank compare-served`: summaries, plots and tables."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from corank.analysis import plots
from corank.analysis.comparison import WORDS
from corank.analysis.html import Cell, Html, page, plot, section, table, text, verdict
from corank.analysis.plots import BAD, FAINT, GOOD
from corank.core.formatting import format_metric, shorten
from corank.core.version import corank_version
from corank.metrics.inputs import Population
from corank.metrics.metric import BETTER, metric_direction

WIDER = 10
"""Metrics whose differences reach over this many times as far as others' get an axis of their own."""
MAIN: dict[str, Sequence[str]] = {
    "cascade": ("joint_click_recall",),
    "cut": ("click_recall",),
    "exposed": ("auc", "logloss_calibrated"),
}
"""Population → metrics of the summary, without their quotas."""
MOST_MAIN = 10
"""Figures of the summary, at most."""
SIGNS = {word: sign for sign, word in WORDS.items()}
"""Verdict → 1 if it is good, -1 if bad, otherwise 0."""
_COLOURS = {1: GOOD, 0: FAINT, -1: BAD}


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


class ComparedPart(NamedTuple):
    """The metrics of one population that both sides have."""

    title: str
    population: Population
    metrics: Mapping[str, Any]
    """Name → its comparison."""


def comparison_page(document: Mapping[str, Any]) -> Html:
    """The page of a comparison's document."""
    names = Names.of(document)
    return page(f"{names.a} against {names.b}", describe_document(document), *comparison_sections(document))


def comparison_sections(document: Mapping[str, Any]) -> list[Html]:
    """The summary of a comparison, what is compared, how to read it, and each of its parts: a plot and a table."""
    how = text(
        "A difference is a minus b on the same rows. Its 95 % interval is over users, resampled alike for both. "
        "Better and worse are of a, and said if the interval lies beyond the margin that was asked, 0 unless given; "
        "otherwise no difference is shown beyond noise. Not worse: the interval excludes that a is worse by more than "
        "the margin. Intervals are not corrected for multiple comparisons: expect one in twenty to mislead. Of runs "
        "one training of each is compared, and another seed trains another model: compare several by `corank sweep`."
    )
    names = Names.of(document)
    return [
        section("Summary", *_summary(document, names)),
        section("What is compared", _sides(document, names)),
        section("How to read it", how),
        *(section(part.title, *draw_differences(part, names)) for part in compared_parts(document)),
    ]


def _summary(document: Mapping[str, Any], names: Names) -> Iterator[Html]:
    """Metrics that are better, worse and undecided: the main ones in words and as a table, and a count of all."""
    parts = [*compared_parts(document)]
    main = [
        (part, name)
        for population, wanted in MAIN.items()
        for part in parts
        if part.population == population
        for name in part.metrics
        if name.partition("@")[0] in wanted
    ][:MOST_MAIN]
    for word, sign in SIGNS.items():
        said = [_describe_figure(part, name) for part, name in main if part.metrics[name]["verdict"] == word]
        if said and sign:
            yield text(
                f"{names.a} is {word} than {names.b}, by a − b and its 95 % interval: {'; '.join(said)}."
            )
        elif said:
            yield text(
                f"No difference is shown beyond {_noise(part.metrics[name] for part, name in main)}: {'; '.join(said)}."
            )
    count = Counter(one["verdict"] for part in parts for one in part.metrics.values())
    seeds = (
        " Intervals are over users: another seed alone may move figures by more."
        if "changes" in document
        else ""
    )
    yield text(
        f"Of all {count.total()} figures, {names.a} is better in {count[WORDS[1]]} and worse in {count[WORDS[-1]]}."
        f"{seeds}"
    )
    if main:
        yield _table(names, [((name, part.title), part, name) for part, name in main])


def _describe_figure(part: ComparedPart, name: str) -> str:
    one = part.metrics[name]
    amount = f" {one['difference']:+.4f} [{format_bounds(one)}]" if SIGNS[one["verdict"]] else ""
    return f"{name} ({part.title}){amount}"


def _sides(document: Mapping[str, Any], names: Names) -> Html:
    """The paths of both, and the keys in which their configs differ, if they are runs."""
    rows: list[list[Cell]] = [["path", document["a"], document["b"]]]
    for key, value in document.get("changes", {}).items():
        rows.append([key, *("–" if value[side] is None else shorten(str(value[side])) for side in "ab")])
    if document.get("changes") == {}:
        rows.append(["config", "the same", "the same"])
    return table(["", *names.headings], rows, prose=names.headings)


def describe_document(document: Mapping[str, Any]) -> str:
    """The compared data and corank's version, as text."""
    description = f"{describe_rows(document)}. corank {corank_version()}."
    if "on" in document:
        description += f" Both judged on {document['on']}. {describe_lost(document)}"
    return description


def describe_rows(document: Mapping[str, Any]) -> str:
    """The compared data (a split, a log or scores) and its number of rows, as text."""
    requests, unknown, earlier = (document.get(key) for key in ("requests", "unknown", "earlier"))
    counts = [] if requests is None else [f"{requests:,} requests"]
    counts.append(f"{document['candidates']:,} candidates")
    if unknown:
        counts.append(f"{unknown:,} more without a score left out of both")
    if earlier:
        counts.append(f"{earlier:,} more from before a bundle's snapshot left out of both")
    source = document.get("split") or document.get("log", "scores")
    return f"{source}: {', '.join(counts)}"


def describe_lost(document: Mapping[str, Any]) -> str:
    """Values of the runs that count as unknown in the packed data that both are judged on, as text."""
    lines = [
        f"{run}: {', '.join(f'{name} {count:,}' for name, count in lost.items())}"
        for run, lost in document["lost"].items()
        if lost
    ]
    return f"Values that a run knows and that count as unknown there: {'; '.join(lines)}." if lines else ""


def compared_parts(document: Mapping[str, Any]) -> Iterator[ComparedPart]:
    """The parts of a comparison that have figures."""
    for stage, populations in document["stages"].items():
        for population, labels in populations.items():
            for label, metrics in labels.items():
                if metrics:
                    yield ComparedPart(f"{stage}: {label}, {population}", population, metrics)
    for stage, metrics in document["cuts"].items():
        if metrics:
            yield ComparedPart(f"{stage} against the last stage", "cut", metrics)
    if document["cascade"]:
        yield ComparedPart("cascade", "cascade", document["cascade"])


def split_by_reach(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split metrics by how far from 0 their differences reach, so that an axis shows the intervals of all its metrics.

    A metric that reaches over WIDER times as far as the least of an axis is drawn on the next one.
    """
    reach = {
        name: max(abs(one[key]) for key in ("difference", "low", "high") if one[key] is not None)
        for name, one in found.items()
    }
    axes: list[set[str]] = [set()]
    least = 0.0
    for name in sorted(found, key=reach.__getitem__):
        if least and reach[name] > WIDER * least:
            axes.append(set())
            least = 0.0
        axes[-1].add(name)
        least = least or reach[name]
    return [{name: one for name, one in found.items() if name in axis} for axis in axes]


def draw_differences(part: ComparedPart, names: Names) -> Iterator[Html]:
    """The differences of metrics as plots, and a table."""
    axes = split_by_reach(part.metrics)
    caption = (
        f"Differences of {names.a} to {names.b} with 95 % intervals over users. Green: {names.a} is better; red: "
        f"worse; grey: no difference beyond {_noise(part.metrics.values())}."
    )
    for n, axis in enumerate(axes):
        signs = {name: SIGNS[one["verdict"]] for name, one in axis.items()}
        labels = {name: f"{name}, {WORDS[sign]}" if sign else name for name, sign in signs.items()}
        panel = {labels[name]: (one["difference"], one["low"], one["high"]) for name, one in axis.items()}
        colours = {labels[name]: _COLOURS[sign] for name, sign in signs.items()}
        draw = partial(plots.intervals, panels={"a − b": panel}, colours=colours)
        full_caption = caption if n == 0 else f"Metrics of larger differences: mind the axis. {caption}"
        yield plot(draw, full_caption, 0.7 + 0.22 * len(panel))
    yield _table(names, [(name, part, name) for name in part.metrics])


def draw_arms(panels: Mapping[str, Mapping[str, Any]], arms: int) -> Html:
    """The differences of arms to the config as written, a panel a metric, as a plot."""
    caption = (
        "Difference of each arm to the config as written, with 95 % intervals over users and seeds. Right of 0: "
        "higher; grey: cannot tell."
    )
    return plot(partial(plots.intervals, panels=panels), caption, height=0.9 + 0.32 * arms)


def _table(names: Names, figures: Sequence[tuple[Cell, ComparedPart, str]]) -> Html:
    """A row a metric: its title, its part, its name. Columns of margins are left out where none was asked."""
    asked = any(part.metrics[name]["margin"] for _, part, name in figures)
    rows: list[list[Cell]] = []
    for title, part, name in figures:
        one = part.metrics[name]
        values = format_metric(one["a"]), format_metric(one["b"])
        better = BETTER[metric_direction(name, part.population)]
        row: list[Cell] = [title, *values, (f"{one['difference']:+.4f}", format_bounds(one)), better]
        row.append(verdict(_describe_verdict(one), SIGNS[one["verdict"]]))
        rows.append(row + [f"{one['margin']:g}", "yes" if one["not_worse"] else "no"] * asked)
    margin = ["margin", "not worse"] if asked else []
    return table(["", *names.headings, "a − b", "better is", "a is", *margin], rows, prose=("a is",))


def _describe_verdict(one: Mapping[str, Any]) -> str:
    if SIGNS[one["verdict"]]:
        return str(one["verdict"])
    return f"no difference beyond {_noise([one])}"


def _noise(compared: Iterable[Mapping[str, Any]]) -> str:
    """The bound that a shown difference exceeds."""
    return "the margin" if any(one["margin"] for one in compared) else "noise"


def format_bounds(one: Mapping[str, Any]) -> str:
    """The interval of a difference, as text."""
    return "" if one["low"] is None else f"{one['low']:+.4f} … {one['high']:+.4f}"


HOW = (
    "An interval over time holds at all looks at once, with probability {sure:g} %: whoever looks every day and stops "
    "when it excludes 0 is misled no more often than that. It is wider than an interval of 95 % for a single look at a "
    "time that was fixed ahead, which is shown beside it. Users are clusters: what one user does counts as one. "
    "Figures are not corrected for there being several."
)


def served_page(document: Mapping[str, Any]) -> Html:
    """The page of a comparison's document."""
    lead = f"{document['log']}. {describe_exposures(document)} corank {corank_version()}."
    how = section("How to read it", text(HOW.format(sure=100 * (1 - document["alpha"]))))
    return page("Versions that served", lead, *_sections(document), how)


def describe_exposures(document: Mapping[str, Any]) -> str:
    """How many exposures were joined, as text."""
    if "exposures" not in document:
        return "No exposures were given: there are no figures of labels."
    counts = document["exposures"]
    return f"{counts['rows']:,} exposures, of which {counts['unknown']:,} are of requests that the log does not have."


def describe_part(part: Mapping[str, Any]) -> list[str]:
    """The facts of a comparison, one a line."""
    requests = part["requests"]
    lines = [f"a: {part['a']}; b: {part['b']}", f"from {part['from']} until {part['until']} UTC"]
    if isinstance(requests, int):
        return [
            *lines,
            f"{requests:,} requests that both ranked, {part['candidates']:,} candidates in common",
        ]
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


def _sections(document: Mapping[str, Any]) -> Iterator[Html]:
    for name in ("canary", "shadow"):
        part = document[name]
        if part is None:
            continue
        lines = [text(line) for line in describe_part(part)]
        yield section(f"The {name}: {part['verdict']}", *lines, *_agreement(part))
        for figure, result in part["sequential"].items():
            yield section(f"{name}: {figure}", *_over_time(result, Names.of(part)))
        comparison = {"stages": part["stages"], "cuts": {}, "cascade": {}}
        for compared in compared_parts(comparison):
            yield section(f"{name}: {compared.title}", *draw_differences(compared, Names.of(part)))


def agreement_rows(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How near the shadow's answers and scores are to the live version's: figure and value."""
    if "agreement" not in part:
        return []
    agreement = part["agreement"]
    rows = [
        (f"share of the first {agreement['top']} in both", format_metric(agreement["overlap"])),
        ("requests with the same first item", format_metric(agreement["same_first"])),
        (
            f"mean difference of ranks of the first {agreement['top']}",
            format_metric(agreement["rank_difference"]),
        ),
    ]
    for stage, scores in part["scores"].items():
        rows += [
            (f"{stage}: mean score, a and b", f"{format_metric(scores['a'])}, {format_metric(scores['b'])}"),
            (f"{stage}: mean absolute difference", format_metric(scores["mean_absolute"])),
            (f"{stage}: its 99th percentile", format_metric(scores["p99_absolute"])),
            (f"{stage}: correlation", format_metric(scores["correlation"])),
        ]
    return rows


def _agreement(part: Mapping[str, Any]) -> list[Html]:
    rows: list[Sequence[Cell]] = [*agreement_rows(part)]
    return [table(["", ""], rows)] if rows else []


def _over_time(result: Mapping[str, Any], names: Names) -> Iterator[Html]:
    looks = [one for one in result["looks"] if one["low"] is not None]
    if looks:
        panel = {one["until"]: (one["difference"], one["low"], one["high"]) for one in looks}
        draw = partial(plots.intervals, panels={"a − b": panel})
        yield plot(
            draw,
            "Differences of all data until a moment, UTC, with the interval over time.",
            0.7 + 0.2 * len(panel),
        )
    rows: list[Sequence[Cell]] = [
        [names.headings[0], format_metric(result.get("a"))],
        [names.headings[1], format_metric(result.get("b"))],
        ["a − b", format_metric(result["difference"])],
        ["interval over time", format_sequence(result, "low", "high")],
        ["95 % at a fixed time", format_sequence(result, "fixed_low", "fixed_high")],
        ["a is", verdict(result["verdict"], SIGNS.get(result["verdict"], 0))],
    ]
    yield table(["", ""], rows)


def format_sequence(found: Mapping[str, Any], low: str, high: str) -> str:
    """An interval as text."""
    return "" if found.get(low) is None else f"{found[low]:+.5f} … {found[high]:+.5f}"
