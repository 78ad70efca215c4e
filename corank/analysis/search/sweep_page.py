"""The page of a sweep: what was chosen, differences with intervals, every arm, the test of the chosen one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import yaml

from corank.analysis import plots
from corank.analysis.html import Cell, Html, folded, page, plot, section, table, text
from corank.core.formatting import format_interval, format_metric
from corank.core.version import corank_version

PANELS = 3
"""Metrics of the plot, at most."""
ARMS_ACROSS = 4
"""Arms of one table of all figures."""


def sweep_page(document: Mapping[str, Any]) -> Html:
    """The page of a sweep's document."""
    return page(
        f"{document['name']}: a sweep",
        f"Validation split: {document['requests']:,} requests, {document['candidates']:,} candidates. "
        f"{document['trials']} trials of {len(document['arms'])} arms, corank {corank_version()}.",
        section("What was chosen", text(document["verdict"]), *map(text, document["notes"])),
        section("How to read it", text(_method(document))),
        section("Beside the config as written", *_differences(document)),
        section("All figures", *_figures(document)),
        *tested_section(document),
        section(
            "Config", folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False))
        ),
    )


def _method(document: Mapping[str, Any]) -> str:
    return (
        f"An arm is the config with some keys set, trained with {document['seeds']} seeds and compared by "
        f"{document['metric']} of the validation split. A difference is on the same users, seed by seed; its 95 % "
        "interval is over users and seeds. Cannot tell: the interval contains 0. The best of many arms looks better "
        "than it is, since it was chosen by these figures; not so on the test split, which was read once, for the "
        "chosen arm alone."
    )


def _differences(document: Mapping[str, Any]) -> list[Html]:
    compared = {arm: result["to_base"] for arm, result in document["arms"].items() if result["to_base"]}
    if not compared:
        return [text("There is nothing to compare.")]
    common = [n for n in next(iter(compared.values())) if all(n in figures for figures in compared.values())]
    metrics = [document["metric"], *(name for name in common if name != document["metric"])][:PANELS]
    panels = {
        metric: {
            arm: (f[metric]["value"], f[metric]["low"], f[metric]["high"]) for arm, f in compared.items()
        }
        for metric in metrics
        if metric in common
    }
    caption = (
        "Difference of each arm to the config as written, with 95 % intervals over users and seeds. Right of 0: "
        "higher; grey: cannot tell."
    )
    return [plot(partial(plots.intervals, panels=panels), caption, height=0.9 + 0.32 * len(compared))]


def _figures(document: Mapping[str, Any]) -> list[Html]:
    arms = document["arms"]
    names = list(dict.fromkeys(name for result in arms.values() for name in result["figures"]))
    tables = []
    for begin in range(0, len(arms), ARMS_ACROSS):
        part = list(arms)[begin : begin + ARMS_ACROSS]
        rows: list[list[Cell]] = [
            [name, *(_cell(arms[arm]["figures"].get(name)) for arm in part)] for name in names
        ]
        rows.append(["seconds a training", *(f"{arms[arm]['seconds']:.1f}" for arm in part)])
        tables.append(table(["", *part], rows))
    return tables


def _cell(figure: Mapping[str, Any] | None) -> Cell:
    if figure is None:
        return "–"
    value = format_metric(figure["value"])
    return value if figure["low"] is None else (value, format_interval((figure["low"], figure["high"])))


def tested_section(document: Mapping[str, Any]) -> list[Html]:
    """The section of the test split's figures, of the chosen config alone."""
    figures = document["test"]
    if figures is None:
        return [section("Test", text("The config has no test split."))]
    rows: list[list[Cell]] = [[name, _cell(figure)] for name, figure in figures.items()]
    said = (
        f"Read once, at the end, for “{document['chosen']}” alone, with the config's own seed. 95 % intervals are over "
        f"users. Its run is {document['run']}, its config {document['config_file']}."
    )
    return [section("Test", text(said), table(["figure", "value"], rows))]
