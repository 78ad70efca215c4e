"""The report of two runs: what differs, with paired intervals, and their figures side by side."""

from collections.abc import Callable

import yaml

from corank.analysis.comparison import MeasuredRun, compare_measured
from corank.analysis.comparison_page import Names, comparison_sections, describe_document
from corank.analysis.evaluated_run import EvaluatedRun
from corank.analysis.html import Html, beside, folded, heading, joined, page, section
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
    a, b = (MeasuredRun.of(run, split, progress) for run in (one, other))
    document = compare_measured(a, b)
    names = Names.of(document)
    runs = dict(zip(names.headings, (one, other), strict=True))
    figures = [
        section(
            title,
            beside(
                *(
                    joined(heading(name), *parts(measured.evaluated))
                    for name, measured in zip(names.headings, (a, b), strict=True)
                )
            ),
        )
        for title, parts in FIGURES.items()
    ]
    return page(
        f"{names.a} against {names.b}",
        describe_document(document),
        *comparison_sections(document),
        *figures,
        section("Training", *training_parts({"a": one, "b": other})),
        section(
            "Configs", *(folded(f"The whole config of {name}", _dump(run)) for name, run in runs.items())
        ),
        wide=True,
    )


def _dump(run: Run) -> str:
    return yaml.safe_dump(plain(run.config), sort_keys=False)
