"""A run judged on a split: the model, what it predicts, and the evaluation's document.

Letters: C candidates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.evaluate import evaluate, truth_of
from corank.evaluation.predict import Predictions, predict
from corank.evaluation.stage_order import Calibrators, Truth, order_of, true_value
from corank.models.joint import JointModel, Stage
from corank.training.run import Run


@dataclass(frozen=True)
class Judged:
    """A run's model and what it says of a split."""

    run: Run
    packed: PackedDataset
    model: JointModel
    calibrators: Calibrators
    predictions: Predictions
    truth: Truth
    document: dict[str, Any]
    """Of `corank evaluate --json`."""

    def probability(self, stage: str, label: str) -> NDArray[np.floating]:
        """Calibrated: (C,)."""
        return self.calibrators[stage][label].apply(self.predictions.logits[stage][label])

    def places(self, stage: Stage) -> NDArray[np.int64]:
        """(C,), from 0."""
        return self.predictions.requests.places(
            order_of(self.predictions, stage, self.calibrators[stage.name])
        )

    def true_value(self, stage: Stage) -> Floats | None:
        """By the truth, if that is known: (C,)."""
        return true_value(self.predictions, stage, self.truth)


def judged(run: Run, split: str, bootstrap: bool = True, reference: Run | None = None) -> Judged:
    """Judge a run on a split, beside a `reference` on the same rows if given. Raises CheckpointError, DataError."""
    packed, model, calibrators, predictions = _predicted(run, split)
    unbiased = None if reference is None else _predicted(reference, split)[-1]
    truth = truth_of(packed, split)
    stages, levels = run.config.stages, run.config.data.levels
    document = evaluate(
        predictions, stages, levels, calibrators, truth, split, bootstrap=bootstrap, reference=unbiased
    )
    return Judged(run, packed, model, calibrators, predictions, truth, document)


def _predicted(run: Run, split: str) -> tuple[PackedDataset, JointModel, Calibrators, Predictions]:
    packed = run.packed()
    if split not in packed.splits:
        raise DataError(f"no split '{split}'; the packed data have {', '.join(packed.splits)}")
    if not packed.splits[split]:
        raise DataError(f"split '{split}' has no rows; see data.split and `corank check`")
    model, calibrators = run.model(packed)
    return packed, model, calibrators, predict(model, packed, split)
