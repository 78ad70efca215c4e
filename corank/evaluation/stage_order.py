"""The numbers by which stages order candidates: predicted values, and the true ones of a simulated world.

Letters: C candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.formula import Formula
from corank.core.ordering import stage_value
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.predict import Predictions

Calibrators = dict[str, dict[str, Platt]]
"""Stage → label → calibrator."""
Truth = dict[str, Floats]
"""Label → known click probability (C,); empty unless the world is simulated."""


class EvaluatedStage(Protocol):
    """The facts of a stage that evaluation needs: of a config's settings, or of a bundle."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels that it predicts."""

    @property
    def main(self) -> str:
        """The label whose positives it is evaluated by."""

    @property
    def cuts(self) -> Sequence[str]:
        """Levels of the log whose candidates it cut."""

    @property
    def keep(self) -> int:
        """How many candidates it keeps."""

    @property
    def value(self) -> str:
        """The formula that it orders by, as text."""

    def ordering(self, columns: Collection[str]) -> Formula:
        """Its value, parsed, over its labels and the data's `columns`."""


def read_truth(packed: PackedDataset, split: str) -> Truth:
    """Read the truth table of a split, which only evaluation reads."""
    shards = packed.splits[split]
    return {label: np.concatenate([shard.truth[label] for shard in shards]) for label in shards[0].truth}


def order_scores(
    predictions: Predictions, stage: EvaluatedStage, calibrators: Mapping[str, Platt]
) -> NDArray[np.floating]:
    """Compute what a stage orders by: its value, or, if that is a single label, the logit, in the same order: (C,).

    Raises DataError if a value is not finite.
    """
    label = stage.ordering(predictions.columns).single
    return predictions.logits[stage.name][label] if label else stage_values(predictions, stage, calibrators)


def stage_values(
    predictions: Predictions, stage: EvaluatedStage, calibrators: Mapping[str, Platt]
) -> NDArray[np.floating]:
    """Compute a stage's value of each candidate: (C,). Raises DataError if one is not finite."""
    value, logits = stage.ordering(predictions.columns), predictions.logits[stage.name]
    values = stage_value(value, logits, calibrators, predictions.columns)
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        raise DataError(
            f"stages.{stage.name}.value: {stage.value!r} is {values[odd[0]]} for candidate {odd[0]} of the split; "
            "look for zeros below a division, and for extreme numbers among data.columns"
        )
    return values


def true_values(predictions: Predictions, stage: EvaluatedStage, truth: Truth) -> Floats | None:
    """Compute a stage's value from the true probabilities of its labels: (C,); None if one is not known."""
    value = stage.ordering(predictions.columns)
    if any(label in value.names and label not in truth for label in stage.labels):
        return None
    values: Floats = value(predictions.columns | truth).astype(np.float32)
    return values
