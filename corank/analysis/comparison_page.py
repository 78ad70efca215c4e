"""The page of `corank compare`: for each stage a plot of differences and a table; the cascade below."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from corank import __version__
from corank.analysis import plots
from corank.analysis.html import Cell, Html, page, plot, section, table, text
from corank.core.formatting import format_metric


def comparison_page(document: Mapping[str, Any]) -> Html:
    """The page of a comparison's document."""
    lead = f"a: {document['a']}; b: {document['b']}. {describe_rows(document)}. corank {__version__}."
    return page("a against b", lead, *comparison_sections(document))


def comparison_sections(document: Mapping[str, Any]) -> list[Html]:
    """How to read a comparison, and each of its parts: differences as a plot, and a table."""
    how = text(
        "A difference is a minus b on the same rows. Its 95 % interval is over users, resampled alike for both. "
        "Better and worse are of a; cannot tell: the interval contains 0. Intervals are not corrected for multiple "
        "comparisons: expect one in twenty to mislead."
    )
    parts = [section(title, *_figures(found)) for title, found in compared_parts(document)]
    return [section("How to read it", how), *parts]


def describe_rows(document: Mapping[str, Any]) -> str:
    """How many rows were compared, as text."""
    requests, unknown = document["requests"], document.get("unknown", 0)
    found = [] if requests is None else [f"{requests:,} requests"]
    found.append(f"{document['candidates']:,} candidates")
    if unknown:
        found.append(f"{unknown:,} more without a score left out of both")
    return f"{document.get('split', 'scores')}: {', '.join(found)}"


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


def _figures(found: Mapping[str, Any]) -> Iterator[Html]:
    panel = {name: (one["difference"], one["low"], one["high"]) for name, one in found.items()}
    draw = partial(plots.intervals, panels={"a − b": panel})
    yield plot(
        draw, "Differences with 95 % intervals over users; grey: cannot tell.", 0.7 + 0.22 * len(panel)
    )
    rows: list[Sequence[Cell]] = [
        [name, format_metric(one["a"]), format_metric(one["b"]), _difference(one), one["verdict"]]
        for name, one in found.items()
    ]
    yield table(["", "a", "b", "a − b", "a is"], rows)


def _difference(one: Mapping[str, Any]) -> Cell:
    return f"{one['difference']:+.4f}", format_bounds(one)


def format_bounds(one: Mapping[str, Any]) -> str:
    """The interval of a difference, as text."""
    return "" if one["low"] is None else f"{one['low']:+.4f} … {one['high']:+.4f}"
