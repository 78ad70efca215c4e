"""The logits that a model gives the candidates of a split, and the numbers by which stages order them.

Letters: C candidates.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.batches.sampling import Population
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.ordering import Formula, stage_value
from corank.core.reports import Progress
from corank.core.time import day_numbers
from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.metrics.requests import Requests
from corank.models.joint import JointModel

Logits = dict[str, dict[str, Floats]]
"""Stage → label → (C,)."""


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
    """Label → 1, 0, or −1 where unknown, as it is for all that was not shown: (C,)."""
    weight: Floats
    """(C,)"""
    columns: dict[str, Floats] = field(default_factory=dict)
    """Column of `data.columns` → (C,)."""
    propensity: Floats | None = None
    """The probability of exposure, NaN outside of the random bucket: (C,). None if the config names no
    `data.propensity`, or not all candidates are predicted."""


def predict_split(
    model: JointModel,
    packed: PackedDataset,
    split: str,
    population: Population | None = None,
    requests: int = 1024,
    names: Iterable[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Predictions:
    """Compute logits of a split's candidates in fp32, in this process alone.

    Args:
        model: the stages.
        packed: the log.
        split: `train`, `valid` or `test`.
        population: candidates to read; all unless given.
        requests: requests of a batch.
        names: stages and teachers; all stages unless given.
        progress: receives how many requests are done, and of how many.
    """
    predictions = predict_by_ranks(model, packed, split, Ranks(), population, requests, names, progress)
    assert predictions is not None
    return predictions


def predict_by_ranks(
    model: JointModel,
    packed: PackedDataset,
    split: str,
    ranks: Ranks,
    population: Population | None = None,
    requests: int = 1024,
    names: Iterable[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Predictions | None:
    """Compute logits as `predict_split` does, each rank those of its part of every batch; a collective.

    Returns the predictions of the whole split on the first rank, batch by batch from the others; None elsewhere.
    """
    names = list(model.stages if names is None else names)
    reader = Reader(
        packed,
        split,
        requests,
        population,
        ranks=ranks,
        sharded=model.sharded,
        attended=model.attended,
        sees_ranks=model.sees_ranks,
    )
    parts: list[dict[str, NDArray[Any]]] = []
    with _evaluation_mode(model):
        total = sum(len(shard) for shard in packed.splits[split])
        for done, batch in enumerate(reader.read_ordered(), start=1):
            parts += _gather(_predict_batch(model, batch, names), ranks)
            progress(min(done * requests, total), total)
    if not ranks.first:
        return None
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    user = np.concatenate([shard.user for shard in packed.splits[split]])
    time = np.concatenate([shard.time for shard in packed.splits[split]])
    start = np.concatenate(([0], np.cumsum(columns["size"], dtype=np.int64)))
    return Predictions(
        logits={
            name: {label: columns[_logit(name, label)] for label in model.labels[name]} for name in names
        },
        requests=Requests(start, user),
        day=day_numbers(time, packed.data.timezone),
        level=columns["level"],
        exposed=columns["level"] == len(packed.data.levels) - 1,
        labels={name: columns[f"label.{name}"] for name in packed.data.labels},
        weight=columns["weight"],
        columns={name: columns[f"column.{name}"] for name in packed.data.columns},
        propensity=read_propensities(packed, split) if population is None else None,
    )


def read_propensities(packed: PackedDataset, split: str) -> Floats | None:
    """Read the propensities of a split: (C,), NaN outside of the random bucket; None if the config names none."""
    parts = [shard.propensity for shard in packed.splits[split]]
    return None if parts[0] is None else np.concatenate([part for part in parts if part is not None])


@contextmanager
def _evaluation_mode(model: JointModel) -> Iterator[None]:
    """The model without dropout, in fp32, and without gradients; then as it was before."""
    precision, training = model.dtype, model.training
    model.dtype = torch.float32
    model.eval()
    with torch.no_grad():
        yield
    model.dtype = precision
    model.train(training)


def _gather(part: dict[str, NDArray[Any]], ranks: Ranks) -> list[dict[str, NDArray[Any]]]:
    """Send a part of a batch to the first rank. Returns those of all ranks there, in the order of the log."""
    if ranks.alone:
        return [part]
    return [load(content) for content in ranks.gather_first(save(part), "predictions")]


def _logit(stage: str, label: str) -> str:
    return f"logit.{stage}.{label}"


def _predict_batch(model: JointModel, batch: Batch, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The logits and other columns of a batch's candidates, and `size`, the candidates of each request."""
    device = next(model.parameters()).device
    logits = {
        _logit(stage, label): z.cpu().numpy()
        for stage, output in model.outputs(batch.to(device), names).items()
        for label, z in output.logits.items()
    }
    start = batch.requests.start
    columns: dict[str, NDArray[Any]] = {
        "size": np.empty(0, np.int64) if start is None else np.diff(start.numpy()),
        "level": batch.level.numpy(),
        "weight": batch.weight.numpy(),
    }
    columns |= {f"label.{name}": values.numpy().astype(np.int8) for name, values in batch.labels.items()}
    columns |= {f"column.{name}": values.numpy() for name, values in batch.columns.items()}
    return logits | columns


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
