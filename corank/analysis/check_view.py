"""What `corank check` shows: which feature enters which tower, what there is to learn from, and advice."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from corank.core.lazy import lazy
from corank.core.view import Block, Plot, Section, Table, View
from corank.training.checks.log_profile import LogProfile
from corank.training.checks.summary import CheckSummary

if TYPE_CHECKING:
    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

_PLOTS_ACROSS = 3


def check_view(summary: CheckSummary) -> View:
    """What is known of the data that a config would train on."""
    checked, profile = summary.data_check, summary.profile
    tables = ", ".join(f"{name} {rows:,} rows" for name, rows in summary.rows.items())
    features = [
        {
            key.replace(".", " "): "own" if key == "table" and cell == row["feature"] else cell
            for key, cell in row.items()
        }
        for row in summary.features
    ]
    splits = [
        f"{split}: {checked.splits[split].requests:,} requests, {candidates:,} candidates"
        for split, candidates in summary.splits.items()
    ]
    faults = [f"fault: {line}" for line in checked.faults]
    warnings = [f"warning: {line}" for line in checked.warnings]
    texts, labels = ("feature", "side", "kind", "from", "table"), Table.of(summary.labels, left=("label",))
    sections = [
        Section("Which feature enters which tower", [Table.of(features, left=texts)]),
        Section("Candidates per request that each loss learns from", [*_samples(summary)]),
        Section("Exposed rows by what is known of each label", [*splits, labels]),
        Section("Rows that each loss learns from, an epoch of each split", [Table.of(summary.targets)]),
        Section("Training", [*summary.size.lines, *faults, *warnings]),
        Section(
            "Values of each feature, missing ones, and the share of candidates whose value training knows",
            [Table.of(profile.feature_rows, left=("table",), keys=2)],
        ),
        Section("Requests by their number of candidates, and of positives", [*_requests(profile)]),
        Section("Advice", [f"recipe: {profile.recipe}", *(f"advice: {line}" for line in profile.advice)]),
    ]
    name = summary.config.name
    return View(f"{name}: what there is to learn from", f"{name}: {tables}", sections)


def _samples(summary: CheckSummary) -> Iterator[Block]:
    yield Table.of(summary.samples, left=("learns",))
    if summary.config.data.level is None:
        yield (
            "The log has no levels: all of it counts as exposed, and what was cut is unknown. Negatives can only come "
            "from beyond it: {kind: unexposed, from: [batch]} or [catalogue]."
        )


def _requests(profile: LogProfile) -> Iterator[Block]:
    panels = defaultdict[str, dict[str, dict[str, int]]](dict)
    for row in profile.request_rows:
        counts = {split: int(row[split]) for split in profile.counts.requests}
        panels[f"requests by {row['of']}"][str(row["number"])] = counts
    yield Plot(
        lambda figure: plots.counts(figure, panels),
        "Requests of each split by their number of candidates, and of positives of each label.",
        0.6 + 2.2 * -(-len(panels) // _PLOTS_ACROSS),
    )
    yield Table.of(profile.request_rows, keys=2)
    for split, count in profile.unread.items():
        if count:
            yield f"{split}: no loss reads {count:,} candidates, whose level none takes"
