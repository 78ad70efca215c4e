"""Results of entries → flat figures with intervals, and a table a world in Markdown."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.quality.arena import spread
from corank.analysis.experiments.engine import ArmResult

Results = dict[str, ArmResult | str]
"""By entry: its result, or why it could not be trained."""
SHOWN = {
    "joint_truth_recall": "joint recall of the truth",
    "joint_click_recall": "joint click recall",
    "truth_recall": "recall of the truth at the cut",
    "click_recall": "click recall at the cut",
    "first_candidates_auc": "pre-ranker AUC, all",
    "first_auc": "pre-ranker AUC, exposed",
    "last_auc": "ranker AUC, exposed",
}
"""Figures of an entry → their titles; a log without the truth, or without cuts, has not all."""


def status_of(result: ArmResult | str) -> str:
    """`ok`, or why an entry has no figures: one training at the chosen rate that diverged is enough."""
    if isinstance(result, str):
        return f"refused: {result}"
    if result.rate is None:
        return "diverged at every rate"
    diverged = [str(trial.seed) for trial in result.seeds if trial.diverged]
    return f"diverged with seed {', '.join(diverged)}" if diverged else "ok"


def figures_of(world: str, results: Results, baseline: str) -> dict[str, harness.Figure]:
    """`WORLD.ENTRY.figure` of each entry, and `WORLD.ENTRY-BASELINE.figure` of its difference."""
    figures: dict[str, harness.Figure] = {}
    successes = {name: result for name, result in results.items() if status_of(result) == "ok"}
    for name, result in results.items():
        key = f"{world}.{name}"
        figures[f"{key}.status"] = status_of(result)
        if name not in successes or isinstance(result, str):
            continue
        figures |= _with_intervals(key, result.means[1])
        figures |= spread(f"{key}.seconds", [trial.seconds for trial in result.seeds])
        parameters = result.seeds[0].parameters
        figures[f"{key}.parameters"] = sum(count for part, count in parameters.items() if part != "tables")
        figures[f"{key}.rate"] = result.rate or 0.0
        base = successes.get(baseline)
        if name == baseline or base is None or isinstance(base, str):
            continue
        figures |= _with_intervals(f"{world}.{name}-{baseline}", result.minus(base))
    return figures


def _with_intervals(key: str, by_figure: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The values of the shown figures, and the ends of their intervals."""
    figures: dict[str, float] = {}
    for name in [name for name in SHOWN if name in by_figure]:
        ends = {f"{key}.{name}.{end}": by_figure[name][end] for end in ("low", "high")}
        figures[f"{key}.{name}"] = by_figure[name]["value"]
        figures |= {end: value for end, value in ends.items() if value is not None}
    return figures


def write_table(
    world: str, entries: Sequence[str], figures: Mapping[str, harness.Figure], baseline: str
) -> None:
    """Print a world's entries as a table: the baseline's means, and differences from it, bold where they exclude 0.

    Of a baseline that diverged there are no differences: all rows have means.
    """
    shown = [figure for figure in SHOWN if any(f"{world}.{name}.{figure}" in figures for name in entries)]
    compared = figures[f"{world}.{baseline}.status"] == "ok"
    titles = [world, *(SHOWN[figure] for figure in shown), "rate", "seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name in entries:
        key, status = f"{world}.{name}", str(figures[f"{world}.{name}.status"])
        if status != "ok":
            cells = [status.replace("\n", "; "), *[""] * (len(titles) - 2)]
        else:
            of, sign = (f"{key}-{baseline}", "+") if compared and name != baseline else (key, "")
            cells = [_cell(f"{of}.{figure}", figures, sign) for figure in shown]
            cells += [f"× {figures[f'{key}.rate']:.3g}", f"{figures[f'{key}.seconds']:.1f}"]
        lines.append("| " + " | ".join([f"`{name}`", *cells]) + " |")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def _cell(key: str, figures: Mapping[str, harness.Figure], sign: str) -> str:
    """A figure with its interval, without leading zeros."""
    if key not in figures:
        return ""
    value, *ends = (figures[k] for k in (key, f"{key}.low", f"{key}.high") if k in figures)
    text = _short(value, sign) + (f" [{', '.join(_short(end, sign) for end in ends)}]" if ends else "")
    sure = sign and ends and (float(ends[0]) > 0 or float(ends[1]) < 0)
    return f"**{text}**" if sure else text


def _short(value: harness.Figure, sign: str) -> str:
    """Three digits behind the point, without a zero before it."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1).replace("-", "−")
