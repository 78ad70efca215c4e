"""The page of `corank compare`: for each stage a plot of differences and a table; the cascade below."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from corank import __version__
from corank.analysis import plots
from corank.analysis.html import Cell, Html, page, plot, section, table, text
from corank.core.formatting import format_metric

WIDER = 10
"""Metrics whose differences reach over this many times as far as others' get an axis of their own."""


def comparison_page(document: Mapping[str, Any]) -> Html:
    """The page of a comparison's document."""
    lead = f"a: {document['a']}; b: {document['b']}. {describe_rows(document)}. corank {__version__}."
    if "on" in document:
        lead += f" Both judged on {document['on']}. {describe_lost(document)}"
    return page("a against b", lead, *comparison_sections(document))


def comparison_sections(document: Mapping[str, Any]) -> list[Html]:
    """How to read a comparison, and each of its parts: differences as a plot, and a table."""
    how = text(
        "A difference is a minus b on the same rows. Its 95 % interval is over users, resampled alike for both. "
        "Better and worse are of a, and said if the interval lies beyond the margin that was asked, 0 unless given; "
        "otherwise no difference is shown. Not worse: the interval excludes that a is worse by more than the margin. "
        "Intervals are not corrected for multiple comparisons: expect one in twenty to mislead."
    )
    parts = [section(title, *draw_differences(found)) for title, found in compared_parts(document)]
    return [section("How to read it", how), *parts]


def describe_rows(document: Mapping[str, Any]) -> str:
    """What was compared, a split, a log or scores, and how many rows, as text."""
    requests, unknown, earlier = (document.get(key) for key in ("requests", "unknown", "earlier"))
    found = [] if requests is None else [f"{requests:,} requests"]
    found.append(f"{document['candidates']:,} candidates")
    if unknown:
        found.append(f"{unknown:,} more without a score left out of both")
    if earlier:
        found.append(f"{earlier:,} more from before a bundle's snapshot left out of both")
    source = document.get("split") or document.get("log", "scores")
    return f"{source}: {', '.join(found)}"


def describe_lost(document: Mapping[str, Any]) -> str:
    """Which values of the runs count as unknown in the packed data that they are judged on, as text."""
    found = [
        f"{run}: {', '.join(f'{name} {count:,}' for name, count in lost.items())}"
        for run, lost in document["lost"].items()
        if lost
    ]
    return f"Values that a run knows and that count as unknown there: {'; '.join(found)}." if found else ""


def compared_parts(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a comparison that have figures, each with its title."""
    for stage, populations in document["stages"].items():
        for population, labels in populations.items():
            for label, found in labels.items():
                if found:
                    yield f"{stage}: {label}, {population}", found
    for stage, found in document["cuts"].items():
        if found:
            yield f"{stage} against the last stage", found
    if document["cascade"]:
        yield "cascade", document["cascade"]


def split_by_reach(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split metrics by how far from 0 their differences reach, so that an axis shows the intervals of all its metrics.

    Whatever reaches over WIDER times as far as the least of an axis is drawn on the next one.
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


def draw_differences(found: Mapping[str, Any]) -> Iterator[Html]:
    """The differences of metrics as plots, and a table."""
    axes = split_by_reach(found)
    caption = "Differences with 95 % intervals over users; grey: the interval contains 0."
    for n, axis in enumerate(axes):
        panel = {name: (one["difference"], one["low"], one["high"]) for name, one in axis.items()}
        draw = partial(plots.intervals, panels={"a − b": panel})
        told = caption if n == 0 else f"Metrics of larger differences: mind the axis. {caption}"
        yield plot(draw, told, 0.7 + 0.22 * len(panel))
    rows: list[Sequence[Cell]] = [
        [
            name,
            format_metric(one["a"]),
            format_metric(one["b"]),
            _difference(one),
            f"{one['margin']:g}",
            one["verdict"],
            "yes" if one["not_worse"] else "",
        ]
        for name, one in found.items()
    ]
    yield table(["", "a", "b", "a − b", "margin", "a is", "not worse"], rows)


def _difference(one: Mapping[str, Any]) -> Cell:
    return f"{one['difference']:+.4f}", format_bounds(one)


def format_bounds(one: Mapping[str, Any]) -> str:
    """The interval of a difference, as text."""
    return "" if one["low"] is None else f"{one['low']:+.4f} … {one['high']:+.4f}"
