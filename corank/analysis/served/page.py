"""The page of `corank compare-served`: what was compared, differences over time, and metrics by stage."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from corank.analysis import plots
from corank.analysis.comparison_page import SIGNS, Names, compared_parts, draw_differences
from corank.analysis.html import Cell, Html, page, plot, section, table, text, verdict
from corank.core.formatting import format_metric
from corank.core.version import corank_version

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
