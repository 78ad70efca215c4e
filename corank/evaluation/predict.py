"""The scores that a model gives the candidates of a split.

Letters: R requests · C candidates.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from corank.batches.reader import Reader
from corank.batches.sampling import Population
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.metrics.requests import Requests
from corank.models.joint import JointModel


@dataclass(frozen=True)
class Predictions:
    """Request-major, in the order of the log."""

    logits: dict[str, dict[str, Floats]]
    """Stage → label → (C,)."""
    requests: Requests
    level: NDArray[np.uint8]  # (C,)
    exposed: NDArray[np.bool_]  # (C,)
    labels: dict[str, NDArray[np.int8]]
    """(C,): 1, 0, or -1 where unknown, as it is wherever nothing was shown."""
    weight: Floats  # (C,)
    columns: dict[str, Floats] = field(default_factory=dict)
    """The data's `columns`: (C,)."""


def predict(
    model: JointModel,
    packed: PackedDataset,
    split: str,
    population: Population | None = None,
    requests: int = 1024,
    names: Iterable[str] | None = None,
) -> Predictions:
    """Logits in fp32 for the split's candidates, or those of the `population` alone.

    Of every stage, unless `names` tells which stages and teachers.
    """
    names = list(model.stages if names is None else names)
    device = next(model.parameters()).device
    precision, training = model.dtype, model.training
    model.dtype = torch.float32
    model.eval()
    parts: list[tuple[dict[str, dict[str, Floats]], NDArray[np.int32], dict[str, NDArray[np.generic]]]] = []
    with torch.no_grad():
        reader = Reader(
            packed, split, requests, population, attended=model.attended, sees_ranks=model.sees_ranks
        )
        for batch in reader.read_ordered():
            logits = {
                stage: {label: z.cpu().numpy() for label, z in output.logits.items()}
                for stage, output in model.outputs(batch.to(device), names).items()
            }
            columns = {"level": batch.level.numpy(), "weight": batch.weight.numpy()}
            columns |= {f"label.{n}": v.numpy().astype(np.int8) for n, v in batch.labels.items()}
            columns |= {f"column.{n}": v.numpy() for n, v in batch.columns.items()}
            counts = (
                np.diff(batch.requests.start.numpy()) if batch.requests.start is not None else np.empty(0)
            )
            parts.append((logits, counts.astype(np.int32), columns))
    model.dtype = precision
    model.train(training)
    joined = {key: np.concatenate([columns[key] for _, _, columns in parts]) for key in parts[0][2]}
    size = np.concatenate([counts for _, counts, _ in parts])
    user = np.concatenate([shard.user for shard in packed.splits[split]])
    return Predictions(
        logits={
            stage: {
                label: np.concatenate([logits[stage][label] for logits, _, _ in parts]) for label in by_label
            }
            for stage, by_label in parts[0][0].items()
        },
        requests=Requests(np.concatenate(([0], np.cumsum(size, dtype=np.int64))), user),
        level=joined["level"],
        exposed=joined["level"] == len(packed.data.levels) - 1,
        labels={name: joined[f"label.{name}"] for name in packed.data.labels},
        weight=joined["weight"],
        columns={name: joined[f"column.{name}"] for name in packed.data.columns},
    )
