"""Small batches, logits and sums written out, for tests of the losses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec, Loss
from corank.losses.means import divide, weighted_sum
from corank.models.stage_io import StageOutput
from tests.support.encoded_batches import batch, rows

LEVELS = ["cut", "kept", "exposed"]
STAGES = ("prerank", "rank", "rerank")
SCOPE = FunnelSpec(
    LEVELS,
    ["click"],
    {stage: ["click"] for stage in STAGES},
    keep={"prerank": 3, "rank": 2, "rerank": 1},
    with_vectors=["prerank"],
    scores=["production"],
)


def requests(levels: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> Batch:
    """A batch of requests given by the levels of their candidates, which are all distinct items and not clicked."""
    level = np.concatenate([np.asarray(one, dtype=np.int64) for one in levels])
    request_of = np.repeat(np.arange(len(levels)), [len(one) for one in levels])
    sides = rows(np.random.default_rng(0), len(levels), len(level), len(level))
    made = batch(sides, request_of, np.arange(len(level)), level, np.where(level == 2, 0, -1))
    return made if weights is None else replace(made, weight=torch.tensor(weights))


def outputs(**stages: Sequence[float]) -> dict[str, StageOutput]:
    """Logits of one label by stage, as leaves that take gradients."""
    return {stage: output(torch.tensor(z, dtype=torch.float32)) for stage, z in stages.items()}


def output(z: torch.Tensor) -> StageOutput:
    """The output of a stage whose only label is `click`."""
    return StageOutput({"click": z.requires_grad_()})


def logits_of(outputs: Mapping[str, StageOutput]) -> dict[str, dict[str, torch.Tensor]]:
    """Stage → label → logits."""
    return {stage: dict(output.logits) for stage, output in outputs.items()}


def loss(term: Loss, z: Mapping[str, StageOutput], made: Batch, scope: FunnelSpec = SCOPE) -> float:
    """The term's mean, its gradients left in `z`."""
    term.check(scope, "losses.0")
    total = divide(*weighted_sum(*term.values(z, made, scope)))
    total.backward()
    return total.item()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def bce(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_softmax(z: Sequence[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in z))
    return [x - total for x in z]


def neural_sort(s: Sequence[float], temperature: float) -> list[list[float]]:
    """P̂[t][i] as the paper writes it."""
    n, spread = len(s), [sum(abs(a - b) for b in s) for a in s]
    return [
        [
            math.exp(x)
            for x in log_softmax([((n + 1 - 2 * t) * s[i] - spread[i]) / temperature for i in range(n)])
        ]
        for t in range(1, n + 1)
    ]
