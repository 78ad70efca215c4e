"""What `corank explain` shows: the worth of each feature to each stage."""

from collections.abc import Mapping
from typing import Any

from corank.analysis.pivot import Pivot, draw_values, group_by
from corank.core.formatting import format_metric
from corank.core.view import Section, View
from corank.evaluation.rows import Row

SHOWN_FEATURES = 20
"""Features of a plot, at most."""


def explanation_view(document: Mapping[str, Any], metric: str = "auc") -> View:
    """Features by their worth to the last stage, the largest first.

    Args:
        document: as `corank explain --json` prints it.
        metric: of the plot, `auc` or `gauc`.
    """
    features, rows = document["features"], document["rows"]
    lost = [row for row in rows if row["group"]]
    about = {key: lambda row, key=key: features[row["group"]][key] for key in ("side", "kind")}
    table = Pivot("group", "{stage} {metric}".format_map, _lost_cell, about=about)
    drawn = [
        {**row, "value": row["difference"]} for row in _by_worth(lost, metric) if row["metric"] == metric
    ]
    shown = list(dict.fromkeys(row["group"] for row in drawn))[:SHOWN_FEATURES]
    caption = f"{metric.upper()} that each stage loses without a feature, with 95 % intervals over users."
    whole = group_by((row for row in rows if not row["group"]), "stage")
    base = ", ".join(
        f"{stage} {' / '.join(format_metric(row['value']) for row in of)}" for stage, of in whole.items()
    )
    chosen = [row for row in drawn if row["group"] in shown]
    plots = [draw_values(chosen, "stage", "group", caption, from_zero=True)] if chosen else []
    said = f"With all features, AUC / GAUC of {document['candidates']:,} candidates: {base}."
    worth = table.table(_by_worth(lost, "auc"), heading="feature", left=("side", "kind"))
    return View(
        f"What features are worth, split {document['split']}",
        f"{document['split']}: what AUC and GAUC lose without a feature, in 0.0001 ± half the 95 % interval over users",
        [Section("", [*plots, worth, said])],
    )


def _by_worth(lost: list[Row], metric: str) -> list[Row]:
    """The rows of all features, those first without which the last stage loses most."""
    last = lost[-1]["stage"] if lost else ""
    worth = {
        row["group"]: row["difference"] for row in lost if (row["stage"], row["metric"]) == (last, metric)
    }
    return sorted(lost, key=lambda row: -worth.get(row["group"], 0.0))


def _lost_cell(row: Row) -> str:
    """A difference in ten-thousandths, ± half its interval."""
    low, high = row["low"], row["high"]
    return f"{row['difference'] * 1e4:+.0f}" + ("" if low is None else f"±{(high - low) / 2 * 1e4:.0f}")
