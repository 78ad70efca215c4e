"""A run evaluated on one split: its model, predictions and the document of the evaluation.

Letters: C candidates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Floats, Progress
from corank.data.dataset import PackedDataset
from corank.evaluation.document import render
from corank.evaluation.measures import evaluate_predictions
from corank.evaluation.predict import Predictions, predict_split
from corank.evaluation.stage_order import Calibrators, Truth, order_scores, read_truth, true_values
from corank.models.joint import JointModel
from corank.models.settings.stage import StageSettings
from corank.training.run import Run


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

    def probability(self, stage: str, label: str) -> NDArray[np.floating]:
        """Calibrated probability of a label by a stage: (C,)."""
        return self.calibrators[stage][label].apply(self.predictions.logits[stage][label])

    def ranks(self, stage: StageSettings) -> NDArray[np.int64]:
        """Rank of each candidate within its request, 0 the best: (C,)."""
        return self.predictions.requests.ranks(
            order_scores(self.predictions, stage, self.calibrators[stage.name])
        )

    def true_value(self, stage: StageSettings) -> Floats | None:
        """The stage's value computed from the true probabilities: (C,); None if the truth is unknown."""
        return true_values(self.predictions, stage, self.truth)


def evaluate_run(
    run: Run,
    split: str,
    bootstrap: bool = True,
    reference: Run | None = None,
    progress: Progress = lambda done, total: None,
) -> EvaluatedRun:
    """Evaluate a run on a split.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute intervals.
        reference: a run on the same packed data without selection bias, for `bias_regret`.
        progress: receives how many requests are scored, and of how many, of each of the runs.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the reference has other rows.
    """
    packed, model, calibrators, predictions = predict_run(run, split, progress)
    unbiased = None if reference is None else predict_run(reference, split, progress)[-1]
    truth = read_truth(packed, split)
    stages, levels = run.config.stages, run.config.data.levels
    found = evaluate_predictions(predictions, stages, levels, calibrators, truth, split, unbiased)
    document = render(found, bootstrap=bootstrap)
    return EvaluatedRun(run, packed, model, calibrators, predictions, truth, document)


def predict_run(
    run: Run, split: str, progress: Progress = lambda done, total: None
) -> tuple[PackedDataset, JointModel, Calibrators, Predictions]:
    """Open a run, and predict a split. Raises CheckpointError, and DataError if there is no such split."""
    packed = run.packed()
    if split not in packed.splits:
        raise DataError(
            f"no split '{split}': data.split gives {', '.join(packed.splits)}; name one by --split"
        )
    if not packed.splits[split]:
        raise DataError(f"split '{split}' has no rows; see data.split and `corank check`")
    model, calibrators = run.model(packed)
    return packed, model, calibrators, predict_split(model, packed, split, progress=progress)
