"""The comparison of a run with the cascade that needs no joint training: stages of clicks alone, boosted trees last.

Of the last stage alone it takes no training, and so little time that `corank train` may end with it.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from corank.analysis.comparison import TREES, Margins, compare_predicted, join_document
from corank.analysis.comparison_page import SIGNS
from corank.analysis.experiments.engine import train_trial
from corank.analysis.run_evaluation import predict_run
from corank.core.errors import ConfigError, DataError
from corank.core.formatting import format_metric
from corank.core.lazy import require
from corank.core.reports import Progress
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import ALONE
from corank.evaluation.predict import predict_split
from corank.evaluation.table import validation_figures
from corank.features.input_layout import Layout
from corank.models.joint import JointModel
from corank.models.settings.trees import TreesSettings
from corank.models.trees import code_columns
from corank.training.boosted_trees import fit_stage_trees
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain, plain, plain_stage, split_page
from corank.training.run import Run

_ROLE = ("name", "keep", "cuts", "labels", "value")
"""Keys of the last stage that define its purpose, not its model."""
_DROPPED = ("teachers", "tree_teachers", "export")
MOST_NUMBERS = 10_000_000
"""Rows times columns that trees read, and numbers of their tables, at most, for `compare_last_stage`. To fit and follow
500 trees of so many takes half a minute of a core of an EPYC, a minute of one half as fast, and less than 1 GB."""
_HELD_OUT = ("test", "valid")


def compare_with_trees(run: Run, split: str, progress: Progress, margins: Margins) -> dict[str, Any]:
    """Train the reference on the packed data of a run, and compare both on a split.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        progress: receives how many requests are scored, and of how many, of each.
        margins: differences that count.

    Returns the document of `compare_runs`, with TREES as `b`. Raises CheckpointError, DataError, ConfigError, and
    MissingExtraError without LightGBM.
    """
    packed, config = run.packed(), tree_baseline(run)
    ours = predict_run(run, split, progress)

    def measure(trees: Run) -> dict[str, Any]:
        return compare_predicted(ours, predict_run(trees, split, progress, packed.location), margins)

    document, diverged, _ = train_trial(config, packed, run.base, measure)
    if document is None:
        raise ConfigError(f"{run.folder}: the reference of trees diverged: {diverged}")
    return {**document, "b": TREES}


def tree_baseline(run: Run) -> Config:
    """Make the config of a run with boosted trees as its last stage; the others learn from labels, without teachers.

    Raises ConfigError for a run of one stage: nothing would be left to train.
    """
    config, before = run.config, run.config.stages[:-1]
    if not before:
        raise ConfigError(f"{run.folder}: it has one stage; `trees` replaces the last of several")
    values, pages = split_page(plain(config))
    last = values["stages"][-1]
    values["stages"] = [*values["stages"][:-1], _in_role_of(last), *map(plain_stage, pages)]
    values["losses"] = [
        {"kind": "click", "stage": stage.name, "label": label}
        for stage in before
        if not stage.fitted
        for label in stage.labels
    ]
    gone = {last["name"], *(teacher.name for teacher in config.teachers)}
    values["train"] = {k: v for k, v in values["train"].items() if k not in gone}
    values = {key: value for key, value in values.items() if key not in _DROPPED}
    if config.train.early_stop is not None:
        _, label, metric = config.train.early_stop.metric.rsplit(".", 2)
        stop = before[-1].name, label if label in before[-1].labels else before[-1].main, metric
        values["train"]["early_stop"]["metric"] = ".".join(stop)
    return from_plain(values, f"{run.folder}, with trees", run.base)


def _in_role_of(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Trees in place of a stage, as plain values."""
    return {"model": "trees"} | {key: stage[key] for key in _ROLE if key in stage}


def compare_last_stage(run: Run, packed: PackedDataset, progress: Progress) -> dict[str, Any] | None:
    """Fit trees in place of a run's last stage, and compare both on the exposed rows of `test`, or else of `valid`.

    The trees are those of `compare_with_trees`, for the last stage's main label alone.

    Args:
        run: a finished run.
        packed: its packed data.
        progress: receives how many trees are grown, and of how many at most.

    Returns the document of `compare_runs` with that stage and label alone; None if no rows are held out, the last stage
    is trees itself, or the packed data lie in object storage, where trees cannot be fitted. Raises DataError if there
    is too much to fit in a minute, or nothing to fit; ConfigError if trees can read no feature; MissingExtraError
    without LightGBM.
    """
    require("lightgbm", "baseline")
    last = run.config.stages[-1]
    split = next((name for name in _HELD_OUT if packed.splits.get(name)), None)
    if split is None or last.fitted or packed.url is not None:
        return None
    values = _in_role_of(plain_stage(last)) | {"labels": [last.main], "value": last.main}
    trees = validate(TreesSettings, values, f"stages.{last.name}")
    layout = Layout(packed.schema, packed.encoders.sizes)
    _require_few(packed, layout, {"train", "valid", split}, last.main, run)
    fitted = JointModel([trees], layout)
    fit_stage_trees([fitted], packed, run.config.train.seed, ALONE, progress)
    scored = [
        predict_split(model, packed, split, {len(packed.data.levels) - 1: None}, names=[last.name])
        for model in (run.model(packed)[0], fitted)
    ]
    facts = {"split": split, "a": str(run.folder), "b": TREES} | scored[0].counts
    ours, theirs = map(validation_figures, scored)
    return join_document(facts, ours, theirs, Margins())


def _require_few(
    packed: PackedDataset, layout: Layout, splits: Collection[str], label: str, run: Run
) -> None:
    """Raise DataError if it would take longer than about a minute to fit trees to splits, and to score one."""
    shards = [shard for name in splits for shard in packed.splits.get(name, ())]
    rows = sum(int(np.count_nonzero(shard.labels[label] >= 0)) for shard in shards)
    columns = len(code_columns(layout))
    tables = sum(count * dim for dim, count in layout.table_rows.items())
    if rows * columns + tables > MOST_NUMBERS:
        raise DataError(
            f"{rows:,} rows of {columns:,} columns, and tables of {tables:,} numbers, may take more than a minute; "
            f"`corank compare {run.folder} {TREES}` takes its time"
        )


def describe_baseline(document: Mapping[str, Any]) -> list[str]:
    """What `compare_last_stage` found, in a line; a second one says what to look at if trees are surely ahead."""
    head = f"boosted trees on the same rows ({document['split']})"
    row = next((row for row in document["rows"] if row["metric"] == "auc"), None)
    if row is None:
        return [f"{head}: AUC is not defined there"]
    low, high = row["low"], row["high"]
    bounds = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
    compared = (
        f"{head}: {row['stage']}.{row['label']}.auc {format_metric(row['a'])}, trees {format_metric(row['b'])}: "
        f"{row['difference']:+.4f}{bounds}"
    )
    if SIGNS[row["verdict"]] >= 0:
        return [compared]
    return [
        compared,
        "trees are ahead: look at the features that `corank check` advises, search settings by `corank tune`, or let "
        f"trees rank (model: trees); all figures: `corank compare {document['a']} {TREES}`",
    ]
