"""The comparison of a run with the cascade that needs no joint training: stages of clicks alone, boosted trees last.

Of the last stage alone it takes no training, and so little time that `corank train` may end with it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from corank.analysis.comparison import TREES, Margins, compare_predicted, join_document
from corank.analysis.comparison_page import SIGNS, describe_trees
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
from corank.models.settings.trees import LEFT_OUT, TreesSettings
from corank.models.trees import code_columns
from corank.training.boosted_trees import TreeRows, fit_stage_trees
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain, plain, plain_stage, split_page
from corank.training.run import Run

_ROLE = ("name", "keep", "cuts", "labels", "value")
"""Keys of the last stage that define its purpose, not its model."""
_CHOSEN = ("leaves", "min_rows", "lr", "columns")
_DROPPED = ("teachers", "tree_teachers", "export")
MOST_NUMBERS = 10_000_000
"""Rows times columns that trees read, and numbers of their tables, at most, for `compare_last_stage`. To fit and follow
trees of two settings and of the better one takes a minute of a core of an EPYC, and less than 1 GB."""
SETTINGS: Sequence[Mapping[str, Any]] = (
    {},
    {"leaves": 15, "min_rows": 200},
    {"leaves": 7, "min_rows": 100},
    {"leaves": 15, "lr": 0.03, "columns": 0.5},
    {"leaves": 7, "lr": 0.03, "columns": 1.0},
    {"leaves": 4, "min_rows": 5},
    {"leaves": 7, "min_rows": 20, "columns": 0.5},
    {"leaves": 63, "min_rows": 200, "lr": 0.03},
)
"""Of trees, as they differ from the default: those of the best validation AUC are taken, among as many of the first as
MOST_TRIED allows, two at least."""
MOST_TRIED = 20_000_000
"""Numbers that trees of all settings read together, at most."""
SECONDS = 1e-6
"""To fit trees of one setting, on a core of an EPYC, for each number that they read."""
ENOUGH = 200
"""Positives, or negatives, of the split `valid`: by fewer settings cannot be told apart."""
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
    packed = run.packed()
    choice = choose_trees(run, packed, lambda done, total: None)
    config = tree_baseline(run, choice.changes)
    ours = predict_run(run, split, progress)

    def measure(trees: Run) -> dict[str, Any]:
        return compare_predicted(ours, predict_run(trees, split, progress, packed.location), margins)

    document, diverged, _ = train_trial(config, packed, run.base, measure)
    if document is None:
        raise ConfigError(f"{run.folder}: the reference of trees diverged: {diverged}")
    return {**document, "b": TREES, TREES: choice.facts}


def tree_baseline(run: Run, changes: Mapping[str, Any]) -> Config:
    """Make the config of a run with boosted trees as its last stage; the others learn from labels, without teachers.

    Args:
        run: a finished run.
        changes: of the default settings of trees.

    Raises ConfigError for a run of one stage: nothing would be left to train.
    """
    config, before = run.config, run.config.stages[:-1]
    if not before:
        raise ConfigError(f"{run.folder}: it has one stage; `trees` replaces the last of several")
    values, pages = split_page(plain(config))
    last = values["stages"][-1]
    values["stages"] = [*values["stages"][:-1], {**_in_role_of(last), **changes}, *map(plain_stage, pages)]
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


@dataclass(frozen=True)
class TreeChoice:
    """Trees in place of the last stage of a run, for its main label alone."""

    settings: TreesSettings
    changes: Mapping[str, Any]
    """What of the settings is not the default."""
    facts: Mapping[str, Any]
    """How they were chosen and what they read, as `describe_trees` takes it."""


def choose_trees(run: Run, packed: PackedDataset, progress: Progress) -> TreeChoice:
    """Choose settings of trees in place of a run's last stage on the validation split.

    `progress` receives how many trees are grown, and of how many at most. Raises DataError, ConfigError,
    MissingExtraError.
    """
    last, layout = run.config.stages[-1], Layout(packed.schema, packed.encoders.sizes)
    role = _in_role_of(plain_stage(last)) | {"labels": [last.main], "value": last.main}
    columns = code_columns(layout)
    tried = SETTINGS[: count_tried(packed, layout, last.main)]
    candidates = [validate(TreesSettings, {**role, **changes}, f"stages.{last.name}") for changes in tried]
    rows = TreeRows.read(packed, layout, columns, last.name, last.main)
    chosen = rows.choose(candidates, run.config.train.seed, progress)
    changes = tried[candidates.index(chosen)]
    judged = [] if rows.valid is None else np.bincount(rows.valid.label, minlength=2).tolist()
    facts = {
        "settings": {name: getattr(chosen, name) for name in _CHOSEN},
        "tried": 1 if rows.valid is None else len(tried),
        "judged_by": min(judged, default=0),
        "columns": sum(not column.left_out for column in columns),
        "left_out": _find_left_out(layout),
    }
    return TreeChoice(chosen, changes, facts)


def _find_left_out(layout: Layout) -> list[str]:
    """The inputs of which trees read nothing, or but the length of a list."""
    schema = layout.schema

    def is_read(name: str, storage: str) -> bool:
        return storage == "number" or (storage == "id" and layout.sizes[schema.table_of(name)] <= LEFT_OUT)

    return [name for name, feature in schema.inputs().items() if not is_read(name, feature.storage)]


def count_tried(packed: PackedDataset, layout: Layout, label: str) -> int:
    """How many settings are tried: fewer of more rows, two at least."""
    return max(2, min(len(SETTINGS), MOST_TRIED // _count_numbers(packed, layout, {"train", "valid"}, label)))


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
    split = _judged_split(run, packed)
    if split is None:
        return None
    _require_few(
        packed, Layout(packed.schema, packed.encoders.sizes), {"train", "valid", split}, last.main, run
    )
    fitted, choice = fit_last_stage(run, packed, progress)
    scored = [
        predict_split(model, packed, split, {len(packed.data.levels) - 1: None}, names=[last.name])
        for model in (run.model(packed)[0], fitted)
    ]
    facts = {"split": split, "a": str(run.folder), "b": TREES, TREES: choice.facts} | scored[0].counts
    ours, theirs = map(validation_figures, scored)
    return join_document(facts, ours, theirs, Margins())


def fit_last_stage(run: Run, packed: PackedDataset, progress: Progress) -> tuple[JointModel, TreeChoice]:
    """Fit trees in place of a run's last stage, as `choose_trees` chooses them; a model of that stage alone."""
    choice = choose_trees(run, packed, progress)
    fitted = JointModel([choice.settings], Layout(packed.schema, packed.encoders.sizes))
    fit_stage_trees([fitted], packed, run.config.train.seed, ALONE, progress)
    return fitted, choice


def _judged_split(run: Run, packed: PackedDataset) -> str | None:
    """The split whose rows are compared; None if there is none, or nothing to compare or fit."""
    if run.config.stages[-1].fitted or packed.url is not None:
        return None
    return next((name for name in _HELD_OUT if packed.splits.get(name)), None)


def expect_seconds(run: Run, packed: PackedDataset) -> float:
    """How long `compare_last_stage` takes, about; 0 if the run does not ask for it, or it would be too long."""
    split, label = _judged_split(run, packed), run.config.stages[-1].main
    if split is None or not run.config.baseline or find_spec("lightgbm") is None:
        return 0.0
    layout = Layout(packed.schema, packed.encoders.sizes)
    if _count_numbers(packed, layout, {"train", "valid", split}, label) > MOST_NUMBERS:
        return 0.0
    numbers = _count_numbers(packed, layout, {"train"}, label)
    return SECONDS * numbers * (count_tried(packed, layout, label) + 1)


def _count_numbers(packed: PackedDataset, layout: Layout, splits: Collection[str], label: str) -> int:
    """Rows of splits times columns that trees read, and numbers of their tables."""
    shards = [shard for name in splits for shard in packed.splits.get(name, ())]
    rows = sum(int(np.count_nonzero(shard.labels[label] >= 0)) for shard in shards)
    tables = sum(count * dim for dim, count in layout.table_rows.items())
    return rows * len(code_columns(layout)) + tables


def _require_few(
    packed: PackedDataset, layout: Layout, splits: Collection[str], label: str, run: Run
) -> None:
    """Raise DataError if it would take longer than about a minute to fit trees to splits, and to score one."""
    numbers = _count_numbers(packed, layout, splits, label)
    if numbers > MOST_NUMBERS:
        raise DataError(
            f"trees would read {numbers:,} numbers, which may take more than a minute; "
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
    said = [compared, describe_trees(document[TREES])]
    if (few := document[TREES]["judged_by"]) < ENOUGH:
        judged = f"no verdict: the split 'valid' has {few:,} positives or negatives, and {ENOUGH} are needed to choose"
        return [*said, f"{judged} settings of trees"]
    if SIGNS[row["verdict"]] >= 0:
        return said
    return [
        *said,
        "trees are ahead: look at the features that `corank check` advises, search settings by `corank tune`, or let "
        f"trees rank (model: trees); all figures: `corank compare {document['a']} {TREES}`",
    ]
