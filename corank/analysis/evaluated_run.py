"""A run evaluated on one split, as a whole or group by group: by day, by a feature, or by a column of the log.

Letters: C candidates.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.types import Floats
from corank.data.packed.dataset import PackedDataset
from corank.evaluation import predict
from corank.evaluation.groups import group_candidates, select_candidates
from corank.evaluation.measures import evaluate_predictions, render
from corank.evaluation.predict import Calibrators, Predictions, Truth
from corank.models.joint import JointModel
from corank.models.settings.stage import StageSettings
from corank.training.run import Run
from corank.training.weight_transfer import JudgedRun


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its predictions on one split."""

    run: Run
    packed: PackedDataset
    model: JointModel
    calibrators: Calibrators
    predictions: Predictions
    truth: Truth
    document: dict[str, Any]
    """As printed by `corank evaluate --json`."""

    def ranks(self, stage: StageSettings) -> NDArray[np.int64]:
        """Rank of each candidate within its request, 0 the best: (C,)."""
        scores = predict.order_scores(self.predictions, stage, self.calibrators[stage.name])
        return self.predictions.requests.ranks(scores)

    def true_value(self, stage: StageSettings) -> Floats | None:
        """The stage's value computed from the true probabilities: (C,); None if the truth is unknown."""
        return predict.true_values(self.predictions, stage, self.truth)


def evaluate_run(
    run: Run,
    split: str,
    bootstrap: bool = True,
    reference: Run | None = None,
    progress: Progress = lambda done, total: None,
    on: Location | None = None,
) -> EvaluatedRun:
    """Evaluate a run on a split.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute intervals.
        reference: a run on the same packed data without selection bias, for `bias_regret`.
        progress: receives how many requests are scored, and of how many, of each of the runs.
        on: packed data to judge the run on, of other days or another packing; its own unless given.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the reference has other rows.
    """
    packed, model, calibrators, predictions, lost = predict_run(run, split, progress, on)
    unbiased = None if reference is None else predict_run(reference, split, progress, on).predictions
    truth = predict.read_truth(packed, split)
    stages, levels = run.config.stages, run.config.data.levels
    evaluation = evaluate_predictions(predictions, stages, levels, calibrators, truth, split, unbiased)
    document = render(evaluation, bootstrap=bootstrap)
    if on is not None:
        document |= {"on": str(on), "lost": lost}
    return EvaluatedRun(run, packed, model, calibrators, predictions, truth, document)


class PredictedRun(NamedTuple):
    """A run with its predictions on a split."""

    packed: PackedDataset
    model: JointModel
    calibrators: Calibrators
    predictions: Predictions
    lost: dict[str, int]
    """Of a run on another packing: feature → values that the run knows and the packing does not."""


def predict_run(
    run: Run,
    split: str,
    progress: Progress = lambda done, total: None,
    on: Location | None = None,
) -> PredictedRun:
    """Open a run, and predict a split of its packed data, or of those at `on`.

    Raises CheckpointError, StorageError, and DataError if there is no such split, or the run cannot be judged there.
    """
    if on is None:
        packed, lost = run.packed(), dict[str, int]()
        _require_split(packed, split)
        model, calibrators = run.model(packed)
    else:
        judged = JudgedRun.on(run, on)
        packed, model, calibrators, lost = judged.packed, judged.model, judged.calibrators, judged.lost
        _require_split(packed, split)
    predictions = predict.predict_split(model, packed, split, progress=progress)
    return PredictedRun(packed, model, calibrators, predictions, lost)


def _require_split(packed: PackedDataset, split: str) -> None:
    """Raise DataError if there is no such split, or it is empty."""
    if split not in packed.splits:
        raise DataError(
            f"no split '{split}': data.split gives {', '.join(packed.splits)}; name one by --split"
        )
    if not packed.splits[split]:
        raise DataError(f"split '{split}' has no rows; see data.split and `corank check`")


def evaluate_groups(
    run: Run, split: str, by: str, bootstrap: bool = True, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Evaluate each group of a split's candidates, as `evaluate_run` does all of them.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        by: `day`, a feature with one code a row, or a column of the log.
        bootstrap: whether to compute intervals.
        progress: receives how many requests are scored, and of how many.

    Returns `{"split", "by", "whole_requests", "groups"}`: each group is an evaluation with its `name`. Without whole
    requests in a group there is no cascade. Raises CheckpointError, DataError.
    """
    packed, _, calibrators, predictions, _ = predict_run(run, split, progress)
    truth = predict.read_truth(packed, split)
    groups = group_candidates(packed, run.base, split, predictions, by)
    stages, levels = run.config.stages, run.config.data.levels
    documents = []
    for n, name in enumerate(groups.names):
        rows, true = select_candidates(predictions, truth, groups.of == n)
        evaluation = evaluate_predictions(
            rows, stages, levels, calibrators, true, split, whole_requests=groups.of_requests
        )
        documents.append({"name": name} | render(evaluation, bootstrap=bootstrap))
    return {"split": split, "by": by, "whole_requests": groups.of_requests, "groups": documents}
