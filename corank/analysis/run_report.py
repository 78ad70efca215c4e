"""The report of a run, or of two runs side by side: one HTML page on stages, cascade, calibration and training."""

from collections.abc import Callable

import numpy as np
import yaml

from corank.analysis import report_figures as figures
from corank.analysis.comparison import compare_predicted
from corank.analysis.comparison_page import Names, comparison_sections, describe_document
from corank.analysis.evaluation_view import calibration_blocks, cascade_blocks, page_sections, stage_blocks
from corank.analysis.run_evaluation import Evaluation, evaluate_run
from corank.core.formatting import format_interval, format_metric
from corank.core.reports import Progress
from corank.core.version import corank_version
from corank.core.view import Beside, Block, Folded, Heading, Section, View
from corank.evaluation.rows import Row, name_row
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
            Section("Summary", _summary(evaluated)),
            Section("Stages side by side", stage_blocks(evaluated.rows)),
            Section("The cascade", [f"{quotas}.", *cascade_blocks(evaluated.document)]),
            *page_sections(evaluated.document),
            *_page_curve(evaluated),
            *(Section(title, blocks(evaluated)) for title, blocks in FIGURES.items()),
            Section("Training", figures.training_blocks({"": evaluated.run})),
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


def _summary(evaluated: Evaluation) -> list[Block]:
    """Quality of the last stage and of the cuts in words: the figures that are defined."""
    first, last = evaluated.run.config.stages[0], evaluated.run.config.stages[-1]
    known = {name_row(row): row for row in evaluated.rows if row["value"] is not None}
    blocks: list[Block] = []
    if auc := known.get(f"{last.name}.exposed.{last.main}.auc"):
        words = f"{last.name} orders the exposed candidates by {last.main} with an AUC of"
        blocks.append(f"{words} {_value(auc)}; 0.5 is random order.")
    if pcoc := known.get(f"{last.name}.exposed.{last.main}.pcoc_calibrated"):
        blocks.append(
            f"As served, it predicts {_value(pcoc)} times as many {last.main} as there are; 1 is perfect."
        )
    if recall := known.get(f"{first.name}.cut.click_recall@{first.keep}"):
        clicks = f"of the clicks among the {first.keep} candidates that it lets through"
        random = format_metric(recall["random"])
        blocks.append(f"{first.name} keeps {_value(recall)} {clicks}; random order keeps {random}.")
    return blocks or ["No click was logged on this split: only what needs none is known."]


def _value(row: Row) -> str:
    """A figure with its interval, as text."""
    bounds = None if row["low"] is None else (row["low"], row["high"])
    return format_metric(row["value"]) + (f" (95 % interval {format_interval(bounds)})" if bounds else "")


FIGURES: dict[str, Callable[[Evaluation], list[Block]]] = {
    "Quota curve": figures.quota_curve_blocks,
    "Best candidate cut": figures.best_cut_blocks,
    "Calibration": lambda evaluated: calibration_blocks(evaluated.rows),
    "Scores by level": figures.distribution_blocks,
    "Ranks by stage": figures.rank_blocks,
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
            Section("Training", figures.training_blocks({"a": one, "b": other})),
            Section("Configs", [_fold_config(f"The whole config of {name}", run) for name, run in runs]),
        ],
        wide=True,
    )


def _fold_config(summary: str, run: Run) -> Folded:
    return Folded(summary, yaml.safe_dump(plain(run.config), sort_keys=False))
