"""The probability that a candidate is among k that are drawn without replacement, in proportion to weights.

Gumbel top-k: the k largest of `logit + Gumbel noise` are k draws without replacement at the weights w = exp(logit)
(Yellott 1977; Kool, van Hoof and Welling 2019). They are also the k first of arrivals at Tᵢ ~ Exp(wᵢ), so that

    πᵢ = ∫ wᵢ exp(−wᵢ t) P(fewer than k others have arrived by t) dt,

where the number of others is a sum of independent indicators of 1 − exp(−wⱼ t). With t = exp(s) the integrand is smooth
and falls off at both ends, so that the sum at equal steps of s converges faster than any power of the step. The more
are drawn, the steeper it falls, within some 1/√k: the step shrinks by as much.

Letters: n candidates · k drawn · Q nodes of the sum.
"""

import numpy as np

from corank.core.types import Doubles

STEP, STEEP, LOW, HIGH = 0.25, 15, 1e-9, 40.0
"""Of the nodes in s, up to `STEEP` drawn; arrivals before a mean of `LOW` and after one of `HIGH` of the (k + 1)-th
weight are left out."""
FAR, CERTAIN = 80.0, 7.0
"""Logits further apart than `FAR` are drawn in order but for a chance below 1e-30, so the gap between them counts as
that; an arrival is certain by e^`CERTAIN` times its mean."""
MOST_EXACT, MOST_DRAWN, MOST_NUMBERS = 500, 50, 2**21
"""Candidates and drawn ones for which the sum is computed, and numbers that it holds at a time."""


def inclusion_probabilities(logits: Doubles, k: int) -> Doubles:
    """Compute for each candidate the probability to be among k drawn by Gumbel top-k: (n,) → (n,).

    Exact, to some 1e-9, for equal weights, and up to `MOST_EXACT` candidates and `MOST_DRAWN` drawn. Beyond,
    1 − exp(−w t) with the t at which they sum up to k: what the arrivals by a fixed time have, whose error falls as 1/k
    (Rosén 1997).

    Args:
        logits: logarithms of the weights, finite: (n,).
        k: how many are drawn.

    Example:
        >>> inclusion_probabilities(np.log([3.0, 1.0]), 1).round(6)
        array([0.75, 0.25])
    """
    n, logw = len(logits), np.array(logits, dtype=np.float64)
    if k >= n or not (logw != logw[0]).any():
        return np.full(n, min(1.0, k / max(n, 1)))
    order = np.argsort(-logw)
    logw[order] = -np.cumsum(np.minimum(-np.diff(logw[order], prepend=logw.max()), FAR))
    low, high = np.log(LOW / n), np.log(HIGH) - logw[order[k]]
    if n > MOST_EXACT or k > MOST_DRAWN:
        return _by_time(logw, k, low, high)
    step = STEP * min(1.0, STEEP / k) ** 0.5
    nodes = np.arange(low, high, step)
    at_once = max(1, MOST_NUMBERS // (n * k))
    parts = [_sum(logw, k, nodes[a : a + at_once]) for a in range(0, len(nodes), at_once)]
    found: Doubles = np.minimum(step * np.sum(parts, axis=0), 1.0)
    return found


def _sum(logw: Doubles, k: int, nodes: Doubles) -> Doubles:
    """The integrand, summed over some nodes: (Q,) → (n,)."""
    rate = np.exp(np.minimum(logw[:, None] + nodes, CERTAIN))
    here, gone = -np.expm1(-rate)[..., None], np.exp(-rate)[..., None]
    before = np.empty((len(logw), len(nodes), k))  # of the first n, how many have arrived: P(0) to P(k − 1)
    count = np.zeros((len(nodes), k))
    count[:, 0] = 1
    for n in range(len(logw)):
        before[n] = count
        count = _add(count, here[n], gone[n])
    count = np.zeros((len(nodes), k))
    count[:, 0] = 1
    found: Doubles = np.empty(len(logw))
    for n in reversed(range(len(logw))):
        fewer = np.einsum("qk,qk->q", before[n], np.cumsum(count, axis=1)[:, ::-1])
        found[n] = (rate[n] * gone[n, :, 0]) @ fewer
        count = _add(count, here[n], gone[n])
    return found


def _add(count: Doubles, here: Doubles, gone: Doubles) -> Doubles:
    """The distribution of a number of arrivals, with one more candidate."""
    added: Doubles = count * gone
    added[:, 1:] += count[:, :-1] * here
    return added


def _by_time(logw: Doubles, k: int, low: float, high: float) -> Doubles:
    """1 − exp(−w t), which sum up to k."""
    for _ in range(80):
        middle = (low + high) / 2
        found: Doubles = -np.expm1(-np.exp(np.minimum(logw + middle, CERTAIN)))
        low, high = (middle, high) if found.sum() < k else (low, middle)
    return found
