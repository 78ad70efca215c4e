"""What `corank explain` shows: the worth of each feature to each stage, and its online latency."""

from collections.abc import Mapping
from typing import Any

from corank.analysis.pivot import draw_panels
from corank.core.formatting import format_metric
from corank.core.view import Plot, Section, Table, View

SHOWN_FEATURES = 20
"""Features of a plot, at most."""


def explanation_view(document: Mapping[str, Any], metric: str = "auc") -> View:
    """Features by their worth to the last stage, the largest first.

    Args:
        document: as `corank explain --json` prints it.
        metric: of the plot, `auc` or `gauc`.
    """
    stages, metrics = list(document["stages"]), ("auc", "gauc")
    rows = []
    for name in _by_worth(document, stages[-1], "auc"):
        feature = document["features"][name]
        drops = [_with_interval(feature["stages"][s][m]) for s in stages for m in metrics]
        latency = f"{feature['microseconds']['total']:,.0f}"
        rows.append([name, feature["side"], feature["kind"], *drops, latency])
    columns = ["feature", "side", "kind", *(f"{s} {m}" for s in stages for m in metrics), "µs"]
    whole = {
        s: " / ".join(format_metric(figures[m]) for m in metrics) for s, figures in document["stages"].items()
    }
    base = ", ".join(f"{stage} {figures}" for stage, figures in whole.items())
    said = [
        f"With all features, AUC / GAUC of {document['candidates']:,} candidates: {base}.",
        "µs: encoding, look-up and first layers of one request; an item's vectors and codes are computed ahead.",
    ]
    return View(
        f"What features are worth, split {document['split']}",
        f"{document['split']}: what AUC and GAUC lose without a feature, in 0.0001 ± half the 95 % interval over users",
        [Section("", [_plot_worth(document, metric), Table(columns, rows, left=("side", "kind")), *said])],
    )


def _plot_worth(document: Mapping[str, Any], metric: str) -> Plot:
    """What a metric loses without each of the features that are worth most to the last stage."""
    names = _by_worth(document, list(document["stages"])[-1], metric)
    panels = {
        stage: {
            name: (drop["value"], *(drop["interval"] or (None, None)))
            for name in names[:SHOWN_FEATURES]
            if (drop := document["features"][name]["stages"][stage][metric])["value"] is not None
        }
        for stage in document["stages"]
    }
    caption = f"{metric.upper()} that each stage loses without a feature, with 95 % intervals over users."
    return draw_panels(panels, caption, from_zero=True)


def _by_worth(document: Mapping[str, Any], stage: str, metric: str) -> list[str]:
    """The features, those first without which a stage loses most."""
    drops = {name: f["stages"][stage][metric]["value"] or 0.0 for name, f in document["features"].items()}
    return sorted(drops, key=lambda name: -drops[name])


def _with_interval(difference: Mapping[str, Any]) -> str:
    """Format a difference in ten-thousandths, ± half its interval."""
    if difference["value"] is None:
        return "-"
    low, high = difference["interval"] or (None, None)
    return f"{difference['value'] * 1e4:+.0f}" + ("" if low is None else f"±{(high - low) / 2 * 1e4:.0f}")
