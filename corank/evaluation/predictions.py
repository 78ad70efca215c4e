"""What a model predicts of a split's candidates, and the numbers by which stages order them; without torch.

Letters: R requests · C candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.ordering import Formula, stage_value
from corank.core.time import day_numbers
from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.features.log_schema import DataSettings
from corank.metrics.requests import Requests

Logits = dict[str, dict[str, Floats]]
"""Stage → label → (C,)."""
Calibrators = dict[str, dict[str, Platt]]
"""Stage → label → calibrator."""
Truth = dict[str, Floats]
"""Label → known click probability (C,); empty unless the world is simulated."""


@dataclass(frozen=True)
class Predictions:
    """Logits of a split's candidates, with their columns of the log; request-major, in the order of the log."""

    logits: Logits
    requests: Requests
    day: Longs
    """The day of each request in the log's time zone, counted from 1970-01-01: (R,)."""
    level: NDArray[np.uint8]
    """The code of the deepest level that a candidate reached: (C,)."""
    exposed: NDArray[np.bool_]
    """(C,)"""
    labels: dict[str, NDArray[np.int8]]
    """Label → 1, 0, or −1 where unknown, as it is for all that was not shown, unless it is known everywhere: (C,)."""
    weight: Floats
    """(C,)"""
    columns: dict[str, Floats] = field(default_factory=dict)
    """Column of `data.columns` → (C,)."""
    later: str | None = None
    """The first label that is known everywhere."""
    propensity: Floats | None = None
    """The probability of exposure, NaN outside of the random bucket: (C,). None if the config names no
    `data.propensity`, or not all candidates are predicted."""

    @classmethod
    def of(
        cls,
        data: DataSettings,
        columns: Mapping[str, NDArray[Any]],
        logits: Logits,
        propensity: Floats | None,
    ) -> Self:
        """Predictions of candidates with their columns.

        Args:
            data: the settings of the log.
            columns: `size`, the candidates of each request, its `user` and `time`; of candidates `level`, `weight`,
                `label.NAME`, and `column.NAME` if it is known.
            logits: what was predicted.
            propensity: as the log has it.
        """
        return cls(
            logits=logits,
            requests=Requests(np.append(0, np.cumsum(columns["size"], dtype=np.int64)), columns["user"]),
            day=day_numbers(columns["time"], data.timezone),
            level=columns["level"],
            exposed=columns["level"] == len(data.levels) - 1,
            labels={name: columns[f"label.{name}"] for name in data.labels},
            weight=columns["weight"],
            columns={name: columns[key] for name in data.columns if (key := f"column.{name}") in columns},
            later=next(iter(data.everywhere), None),
            propensity=propensity,
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many requests and candidates there are, by name."""
        return {"requests": len(self.requests.size), "candidates": int(self.requests.start[-1])}


def require_split(packed: PackedDataset, split: str, advice: str = "name one by --split") -> None:
    """Raise DataError with advice if there is no such split, or it is empty."""
    if split not in packed.splits:
        raise DataError(f"no split '{split}': data.split gives {', '.join(packed.splits)}; {advice}")
    if not packed.splits[split]:
        raise DataError(f"split '{split}' has no rows; see data.split and `corank check`; {advice}")


def read_whole(packed: PackedDataset, split: str, logits: Logits) -> Predictions:
    """Read what predictions of all candidates of a split have besides given logits, as batches have it."""
    parts = [_read_shard(packed, shard) for shard in packed.splits[split]]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Predictions.of(packed.data, joined, logits, read_propensities(packed, split))


def _read_shard(packed: PackedDataset, shard: Shard) -> dict[str, NDArray[Any]]:
    """The columns of a shard's requests and candidates, and `size`, the candidates of each request."""
    of_items = {name: values[shard.item] for name, values in packed.item_columns.items()}
    return {
        "size": np.diff(shard.request_start),
        "user": shard.user,
        "time": shard.time,
        "level": shard.level,
        "weight": np.ones(len(shard.level), np.float32) if shard.weight is None else shard.weight,
        **{f"label.{name}": values for name, values in shard.labels.items()},
        **{f"column.{name}": values for name, values in (shard.columns | of_items).items()},
    }


def read_propensities(packed: PackedDataset, split: str) -> Floats | None:
    """Read the propensities of a split: (C,), NaN outside of the random bucket; None if the config names none."""
    parts = [shard.propensity for shard in packed.splits[split]]
    return None if parts[0] is None else np.concatenate([part for part in parts if part is not None])


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
