"""The report of two runs: what differs, with paired intervals, and their figures side by side."""

import difflib
from collections.abc import Callable

import yaml

from corank import __version__
from corank.analysis.comparison import MeasuredRun, compare_measured
from corank.analysis.comparison_page import comparison_sections, describe_rows
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Html, beside, folded, heading, joined, page, section, text
from corank.analysis.report.conflicts import conflict_parts
from corank.analysis.report.cut_figures import best_cut_parts
from corank.analysis.report.run_figures import (
    calibration_parts,
    distribution_parts,
    quota_curve_parts,
    rank_parts,
    training_parts,
)
from corank.core.types import Progress
from corank.training.config_file import plain
from corank.training.run import Run

FIGURES: dict[str, Callable[[EvaluatedRun], list[Html]]] = {
    "Quota curve": quota_curve_parts,
    "Best candidate cut": best_cut_parts,
    "Calibration": calibration_parts,
    "Scores by level": distribution_parts,
    "Ranks by stage": rank_parts,
}
"""Title of a section → what it shows of one run."""


def pair_page(one: Run, other: Run, split: str, progress: Progress = lambda done, total: None) -> Html:
    """The page of two finished runs, a and b, on the same candidates of a split.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the candidates differ.
        BundleError: if a model cannot be exported.
        RequestError: if a logged request cannot be ranked.
    """
    runs = {"a": one, "b": other}
    a, b = (MeasuredRun.of(run, split, progress) for run in (one, other))
    document = compare_measured(a, b)
    names = {name: f"{name}: {run.config.name}, {run.folder.name}" for name, run in runs.items()}
    lead = f"{'; '.join(names.values())}. {describe_rows(document)}. corank {__version__}."
    figures = [
        section(
            title,
            beside(
                *(joined(heading(names[name]), *parts(held.evaluated)) for name, held in (("a", a), ("b", b)))
            ),
        )
        for title, parts in FIGURES.items()
    ]
    return page(
        f"{one.config.name} against {other.config.name}",
        lead,
        *comparison_sections(document),
        *figures,
        section("Training", *training_parts(runs), *conflict_parts(runs)),
        section("Configs", *_changes(one, other)),
        wide=True,
    )


def _changes(one: Run, other: Run) -> list[Html]:
    """The lines in which the configs differ, and both configs."""
    texts = [yaml.safe_dump(plain(run.config), sort_keys=False) for run in (one, other)]
    before, after = (content.splitlines() for content in texts)
    lines = [*difflib.unified_diff(before, after, "a", "b", n=2, lineterm="")]
    if not lines:
        return [text("Both runs have the same config."), folded("The whole config", texts[0])]
    return [
        folded("Lines that differ: - as of a, + as of b", "\n".join(lines)),
        folded("The whole config of a", texts[0]),
        folded("The whole config of b", texts[1]),
    ]
