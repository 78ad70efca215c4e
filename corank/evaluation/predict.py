"""The logits that a model gives the candidates of a split."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.batches.sampling import Population
from corank.core.reports import Progress
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.evaluation.predictions import Predictions, read_propensities
from corank.models.joint import JointModel


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
    with evaluation_mode(model):
        total = sum(len(shard) for shard in packed.splits[split])
        for done, batch in enumerate(reader.read_ordered(), start=1):
            parts += _gather(_predict_batch(model, batch, names), ranks)
            progress(min(done * requests, total), total)
    if not ranks.first:
        return None
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    columns["user"] = np.concatenate([shard.user for shard in packed.splits[split]])
    columns["time"] = np.concatenate([shard.time for shard in packed.splits[split]])
    logits = {name: {label: columns[_logit(name, label)] for label in model.labels[name]} for name in names}
    propensity = read_propensities(packed, split) if population is None else None
    return Predictions.of(packed.data, columns, logits, propensity)


@contextmanager
def evaluation_mode(model: JointModel) -> Iterator[None]:
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
