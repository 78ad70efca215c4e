"""Logits, and sums written out, for tests of the losses."""

import math
from collections.abc import Mapping, Sequence

import torch

from corank.models.stage_io import StageOutput
from tests.support.models import grad_of

LEVEL = [0, 2, 1, 0, 2]
Z = {
    "prerank": [0.5, -1.0, 2.0, 0.1, 0.7],
    "rank": [0.2, 0.4, -0.3, 1.0, 0.6],
    "rerank": [-0.2, 0.9, 0.3, 0.0, 0.8],
}
"""Logits of a request whose candidates reached LEVEL."""


def logits_of(outputs: Mapping[str, StageOutput]) -> dict[str, dict[str, torch.Tensor]]:
    """Stage → label → logits."""
    return {stage: dict(output.logits) for stage, output in outputs.items()}


def gradient_of(z: Mapping[str, StageOutput], stage: str = "prerank") -> torch.Tensor:
    """The gradient of a stage's logits."""
    return grad_of(z[stage].logits["click"])


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


def survival(z: Sequence[float], keep: int, temperature: float) -> list[float]:
    """The probability of LCRON that a stage keeps each candidate."""
    p, n = neural_sort(z, temperature), range(len(z))
    return [sum(p[t][i] for t in range(keep)) / sum(p[t][i] for t in n) for i in n]


def missed(p: Sequence[float], true: Sequence[int]) -> float:
    """The mean cross-entropy of probabilities."""
    return sum(bce(q, y) for q, y in zip(p, true, strict=True)) / len(true)


def order_loss(z: Sequence[float], level: Sequence[int], temperature: float) -> float:
    """L_Global of ARF: −log P̂ of the order by level, averaged over the ranks."""
    p, n = neural_sort(z, temperature), len(z)
    order = sorted(range(n), key=lambda i: (-level[i], -z[i]))
    return -sum(math.log(p[t][i]) for t, i in enumerate(order)) / n
