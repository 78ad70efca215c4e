"""The report of a run, or of two runs side by side: one HTML page on stages, cascade and calibration."""

from collections.abc import Callable

import numpy as np
import yaml

from corank.analysis import report_figures as figures
from corank.analysis.comparison import compare_predicted
from corank.analysis.comparison_page import Names, comparison_sections, describe_document
from corank.analysis.evaluation_view import calibration_blocks, cascade_blocks, page_sections, stage_blocks
from corank.analysis.run_evaluation import Evaluation, evaluate_run
from corank.core.reports import Progress
from corank.core.version import corank_version
from corank.core.view import Beside, Block, Folded, Heading, Section, View
from corank.training.config.config_file import plain
from corank.training.run import Run


def report_view(evaluated: Evaluation) -> View:
    """The report of an evaluated run."""
    config = evaluated.run.config
    name = ", ".join(dict.fromkeys((config.name, evaluated.run.folder.name)))
    quotas = ", ".join(f"{stage.name} keeps {stage.keep}" for stage in config.stages)
    return View(
        f"{name}: {' → '.join(stage.name for stage in config.stages)}",
        _lead(evaluated),
        [
            Section("The funnel", figures.funnel_blocks(evaluated)),
            Section("Stages side by side", stage_blocks(evaluated.rows)),
            Section("The cascade", [f"{quotas}.", *cascade_blocks(evaluated.document)]),
            *page_sections(evaluated.document),
            *_page_curve(evaluated),
            *(Section(title, blocks(evaluated)) for title, blocks in FIGURES.items()),
            Section("Config", [_fold_config("The whole config of this run", evaluated.run)]),
        ],
    )


def _page_curve(evaluated: Evaluation) -> list[Section]:
    """Of a page that weighs value against similarity."""
    page = evaluated.run.config.page
    if page is None or page.method == "value":
        return []
    return [Section("Value and diversity", figures.page_curve_blocks(evaluated, page))]


def _lead(evaluated: Evaluation) -> str:
    rows, data = evaluated.predictions, evaluated.run.config.data
    log = data.log_files if isinstance(data.log_files, str) else ", ".join(data.log_files)
    positives = ", ".join(f"{int((known == 1).sum()):,} {name}" for name, known in rows.labels.items())
    epoch = evaluated.run.described(evaluated.packed)[0].facts["epoch"]
    return (
        f"Split {evaluated.split} of {log}: {len(rows.requests.size):,} requests of "
        f"{len(np.unique(rows.requests.user)):,} users, {len(rows.exposed):,} candidates, of which "
        f"{int(rows.exposed.sum()):,} exposed ({positives}). "
        f"Run {evaluated.run.folder}, weights of epoch {epoch}, seed {evaluated.run.config.train.seed}, corank "
        f"{corank_version()}."
    )


FIGURES: dict[str, Callable[[Evaluation], list[Block]]] = {
    "Quota curve": figures.quota_curve_blocks,
    "Calibration": lambda evaluated: calibration_blocks(evaluated.rows),
}
"""Title of a section → what it shows of one run."""


def pair_view(one: Run, other: Run, split: str, progress: Progress = lambda done, total: None) -> View:
    """The report of two finished runs, a and b, on the same candidates of a split.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the candidates differ.
    """
    a, b = (evaluate_run(run, split, bootstrap=False, progress=progress) for run in (one, other))
    document = compare_predicted(a, b)
    names = Names.of(document)

    def beside(blocks: Callable[[Evaluation], list[Block]]) -> Beside:
        return Beside([[Heading(n), *blocks(e)] for n, e in zip(names.headings, (a, b), strict=True)])

    runs = zip(names.headings, (one, other), strict=True)
    return View(
        f"{names.a} against {names.b}",
        describe_document(document),
        [
            Section("The funnel", [beside(figures.funnel_blocks)]),
            *comparison_sections(document),
            *(Section(title, [beside(blocks)]) for title, blocks in FIGURES.items()),
            Section("Configs", [_fold_config(f"The whole config of {name}", run) for name, run in runs]),
        ],
        wide=True,
    )


def _fold_config(summary: str, run: Run) -> Folded:
    return Folded(summary, yaml.safe_dump(plain(run.config), sort_keys=False))
