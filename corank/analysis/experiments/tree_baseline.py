"""The comparison of a run with the cascade that needs no joint training: stages of clicks alone, boosted trees last."""

from typing import Any

from corank.analysis.comparison import Margins, compare_predicted
from corank.analysis.evaluated_run import predict_run
from corank.analysis.experiments.engine import train_trial
from corank.core.errors import ConfigError
from corank.core.reports import Progress
from corank.training.config.config import Config
from corank.training.config.config_file import from_plain, plain
from corank.training.run import Run

TREES = "trees"
"""The name of this reference in place of a run."""
_ROLE = ("name", "keep", "cuts", "labels", "value")
"""Keys of the last stage that define its purpose, not its model."""
_DROPPED = ("teachers", "tree_teachers", "export")


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
    values = plain(config)
    last = values["stages"][-1]
    values["stages"][-1] = {"model": "trees"} | {key: last[key] for key in _ROLE if key in last}
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
