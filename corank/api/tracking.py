"""Finished runs written to trackers, with what is known of them only after the training."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from corank.core.errors import TrackingError
from corank.core.files import write_text
from corank.core.storage.object_url import require_local
from corank.training.config_file import flatten, plain
from corank.training.run import Run
from corank.training.tracking.named_callbacks import read_trackers
from corank.training.tracking.tracker import Tracker

BESIDE = ("eligible", "random")
"""Keys of an evaluation that are no metrics of the run."""


def track(run: str | Path, trackers: Sequence[str], split: str = "test") -> Path:
    """Evaluate a run, and write figures with intervals, report and model version to its run in each tracker.

    A tracked training continues its run there; another one gets a run, with its hyper-parameters.

    Args:
        run: the folder of a finished run. Its `report.html` is written anew.
        trackers: by name, such as `mlflow` or `wandb,project=shop`.
        split: `train`, `valid` or `test`.

    Returns where the report lies. Raises ConfigError, PluginError, MissingExtraError, CheckpointError, DataError,
    BundleError, RequestError, and TrackingError if a tracker takes no records.

    Example:
        >>> corank.track("shop/runs/shop", ["mlflow,uri=sqlite:///mlflow.db,experiment=shop"])
        PosixPath('shop/runs/shop/report.html')
    """
    from corank.analysis.evaluated_run import evaluate_run
    from corank.analysis.report.run_page import report_page  # which loads matplotlib
    from corank.training.export import model_version

    folder = require_local(run)
    opened = Run.open(folder)
    named = read_trackers(trackers)
    evaluated = evaluate_run(opened, split)
    page = folder / "report.html"
    write_text(page, report_page(evaluated))
    weights = opened.trained(evaluated.packed)
    version = model_version(opened.config, evaluated.packed, weights, evaluated.calibrators)
    _write(named, opened, {"model_version": version, **evaluation_figures(evaluated.document)}, page)
    return page


def _write(trackers: Sequence[Tracker], run: Run, facts: Mapping[str, str | float], page: Path) -> None:
    """Write to all trackers, each in its own thread. Raises TrackingError if one of them took not all."""
    for tracker in trackers:
        tracker.begin(run.folder, flatten(plain(run.config)))
        tracker.record(partial(tracker.write_facts, facts))
        tracker.record(partial(tracker.write_file, page))
    failed = [tracker.module for tracker in trackers if tracker.end("finished")]
    if failed:
        raise TrackingError(
            f"{run.folder}: not written to {', '.join(failed)}, or not all; see above, and try again"
        )


def evaluation_figures(document: dict[str, Any]) -> dict[str, float]:
    """The figures of an evaluation, by `SPLIT/STAGE.POPULATION.LABEL.METRIC` and `SPLIT/cascade.METRIC`.

    Bounds of the 95 % intervals have `.low` and `.high` added. What is not defined is left out.
    """
    intervals = document["interval"]
    figures = flatten(document["stages"]) | flatten({"cascade": document["cascade"]})
    bounds = flatten(intervals["stages"]) | flatten({"cascade": intervals["cascade"]})
    ends = {"0": "low", "1": "high"}
    for name, value in bounds.items():
        metric, _, end = name.rpartition(".")
        if end in ends:
            figures[f"{metric}.{ends[end]}"] = value
    return {
        f"{document['split']}/{name}": float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not any(part in BESIDE for part in name.split("."))
    }
