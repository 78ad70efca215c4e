"""What `corank check` shows: what there is to learn from, and findings; all of it, or a screen."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from corank.analysis.colours import plot_rows
from corank.core.lazy import lazy
from corank.core.view import Block, Plot, Section, Table, View
from corank.training.checks.findings import Finding, describe_findings
from corank.training.checks.summary import CheckSummary

if TYPE_CHECKING:
    from corank.analysis import plots
else:
    plots = lazy("corank.analysis.plots")

_DESCRIBED = ("feature", "side", "kind", "from", "table")
"""The columns that describe a feature."""


def check_view(summary: CheckSummary, complete: bool = False, errors: bool = True) -> View:
    """What is known of the data that a config would train on.

    Args:
        summary: of the data.
        complete: whether all findings and tables are shown, or what fits on a screen.
        errors: whether errors are among the findings; a command ends with them.
    """
    tables = ", ".join(f"{name} {rows:,} rows" for name, rows in summary.rows.items())
    name = summary.config.name
    sections = [
        Section("What there is to learn from", [*_overview(summary)]),
        *(_details(summary) if complete else ()),
        Section("Findings", [*_findings(summary.findings, complete, errors)]),
    ]
    return View(f"{name}: what there is to learn from", f"{name}: {tables}", sections)


def _overview(summary: CheckSummary) -> Iterator[Block]:
    """Each split, what enters each network, the losses, and what the training takes."""
    counts, profile = summary.profile.splits, summary.profile
    rows: list[dict[str, str | int]] = []
    for split, candidates in summary.splits.items():
        row: dict[str, str | int] = {"split": split}
        row |= {"requests": counts[split].requests, "candidates": candidates}
        for label in dict.fromkeys(stage.main for stage in summary.config.stages):
            of_label = counts[split].labels[label]
            row |= {"exposed": of_label.exposed, f"{label} positives": of_label.positives}
        for known in (profile.column("item"), profile.column("user")):
            share = known.familiar.get(split)
            row[f"known {known.name}s %"] = f"{100 * share.candidates:.1f}" if share else ""
        rows.append(row)
    yield Table.of(rows)
    for label in summary.config.data.everywhere:
        of_level = [row for row in summary.outcomes if (row["split"], row["label"]) == ("train", label)]
        positives = ", ".join(f"{row['level']} {row['positives']:,} of {row['known']:,}" for row in of_level)
        yield f"{label}, known everywhere: 1 in 'train' for {positives}"
    inputs = {title: sum(row[title] == "x" for row in summary.features) for title in _inputs(summary)}
    entering = ", ".join(f"{title.replace('.', ' ')} {count}" for title, count in inputs.items())
    yield f"inputs, of {len(summary.features)} features: {entering}"
    yield f"losses: {', '.join(row['loss'] for row in summary.samples)}"
    yield from summary.size.lines
    yield f"recipe: {summary.recipe}"


def _findings(findings: Sequence[Finding], complete: bool, errors: bool) -> Iterator[Block]:
    listed = [finding for finding in findings if errors or finding.severity != "error"]
    yield from describe_findings(listed, complete)
    if not listed:
        yield "none but the errors" if findings else "none"
    if not complete:
        yield "the tables of features, losses, labels, values and requests: --all"


def _details(summary: CheckSummary) -> Iterator[Section]:
    """The tables by feature, loss, label and size of the request."""
    features = [
        {
            key.replace(".", " "): "own" if key == "table" and cell == row["feature"] else cell
            for key, cell in row.items()
        }
        for row in summary.features
    ]
    labels = Table.of(summary.labels, left=("label",))
    yield Section("Which feature enters which tower", [Table.of(features, left=_DESCRIBED)])
    yield Section("Candidates per request that each loss learns from", [*_samples(summary)])
    yield Section("Exposed rows by what is known of each label", [labels])
    if summary.outcomes:
        known = Table.of(summary.outcomes, left=("label", "level"))
        yield Section(
            "Candidates of each level by what is known of labels that are known everywhere", [known]
        )
    yield Section("Rows that each loss learns from, an epoch of each split", [Table.of(summary.targets)])
    yield Section(
        "Values of each feature, missing ones, and the share of candidates whose value training knows",
        [Table.of(summary.known, left=("table",), keys=2)],
    )
    yield Section("Requests by their number of candidates, and of positives", [*_requests(summary)])


def _inputs(summary: CheckSummary) -> list[str]:
    """The columns of features that say which network each enters."""
    return [title for title in summary.features[0] if title not in _DESCRIBED]


def _samples(summary: CheckSummary) -> Iterator[Block]:
    yield Table.of(summary.samples, left=("learns",))
    if summary.config.data.level is None:
        yield (
            "The log has no levels: all of it counts as exposed, and what was cut is unknown. Negatives can only come "
            "from beyond it: {kind: unexposed, from: [batch]} or [catalogue]."
        )


def _requests(summary: CheckSummary) -> Iterator[Block]:
    panels = defaultdict[str, dict[str, dict[str, int]]](dict)
    for row in summary.requests:
        counts = {split: int(row[split]) for split in summary.splits}
        panels[f"requests by {row['of']}"][str(row["number"])] = counts
    yield Plot(
        lambda figure: plots.counts(figure, panels),
        "Requests of each split by their number of candidates, and of positives of each label.",
        0.6 + 2.2 * plot_rows(len(panels)),
    )
    yield Table.of(summary.requests, keys=2)
    for split, count in summary.unread.items():
        if count:
            yield f"{split}: no loss reads {count:,} candidates, whose level none takes"
