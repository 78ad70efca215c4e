"""The probability that a candidate is among k that are drawn without replacement, in proportion to weights.

Gumbel top-k: the k largest of `logit + Gumbel noise` are k draws without replacement at the weights w = exp(logit)
(Yellott 1977; Kool, van Hoof and Welling 2019). They are also the k first of arrivals at Tᵢ ~ Exp(wᵢ), so that

    πᵢ = ∫ wᵢ exp(−wᵢ t) P(fewer than k others have arrived by t) dt,

where the number of others is a sum of independent indicators of 1 − exp(−wⱼ t). Until some time t₀ hardly ever have k
arrived, so that the integral is 1 − exp(−wᵢ t₀); from a time t₁ on hardly ever fewer have. Between them it is a sum
over the nodes of Gauss and Legendre in s = log t. Who is certain to have arrived by t₀ counts as one that has, and who
hardly ever arrives by t₁ keeps nobody else away, so that few candidates are left to sum over if weights are far apart.

Letters: n candidates · k drawn · m of them between · Q nodes.
"""

from functools import lru_cache

import numpy as np

from corank.core.types import Doubles

EDGE = 1e-11
"""Probabilities that are left out, at most."""
PER_UNIT, FEWEST, STEEP = 4.0, 24, 15
"""Nodes for each unit of s, for up to `STEEP` drawn, since the integrand is the steeper the more are; and beyond."""
GRID, CERTAIN = 64, 7.0
"""Times at which edges are looked for; an arrival is certain by e^`CERTAIN` times its mean."""
FAR = 80.0
"""Logits further apart are drawn in order but for a chance below 1e-30, so the gap between them counts as that."""
MOST_EXACT, MOST_DRAWN, MOST_NUMBERS = 500, 50, 2**18
"""Candidates and drawn ones for which the sum is computed, and numbers that it holds at a time."""


def soften(values: Doubles, temperature: float = 1.0) -> Doubles:
    """The logits of weights exp(value / temperature): the greatest is 0, none is further than `FAR` from the next.

    So however small the temperature is, they are finite and the noise that is added to them counts: (n,) → (n,).

    Example:
        >>> soften(np.array([0.3, 0.1, 0.2]), 1e-310)
        array([   0., -160.,  -80.])
    """
    order = np.argsort(-values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    gaps = np.minimum(-np.diff(ordered, prepend=ordered[:1]), FAR * temperature) / temperature
    logits = np.empty(len(values))
    logits[order] = -np.cumsum(gaps)
    return logits


def inclusion_probabilities(logits: Doubles, k: int) -> Doubles:
    """Compute for each candidate the probability to be among k drawn by Gumbel top-k: (n,) → (n,).

    Exact, to 1e-10 (`scripts/bench inclusion`), up to `MOST_EXACT` candidates and `MOST_DRAWN` drawn. Beyond,
    1 − exp(−w t) with the t at which they sum up to k: what the arrivals by a fixed time have, whose error falls as 1/k
    (Rosén 1997).

    Args:
        logits: logarithms of the weights, finite: (n,).
        k: how many are drawn.

    Example:
        >>> inclusion_probabilities(np.log([3.0, 1.0]), 1).round(6)
        array([0.75, 0.25])
    """
    n = len(logits)
    if k >= n or not (logits != logits[0]).any():
        return np.full(n, min(1.0, k / max(n, 1)))
    logw = soften(logits)
    begin, end = _find_edges(logw, k)
    if n > MOST_EXACT or k > MOST_DRAWN:
        return _by_time(logw, k, begin, end)
    certain, never = logw + begin > np.log(-np.log(EDGE / n)), logw + end < np.log(EDGE / n)
    some, left = logw[~certain & ~never], k - int(np.count_nonzero(certain))
    half, middle = (end - begin) / 2, (end + begin) / 2
    nodes, weights = _nodes(int(PER_UNIT * max(1.0, (k / STEEP) ** 0.5) * (end - begin)) + FEWEST)
    nodes, weights = middle + half * nodes, half * weights
    found: Doubles = np.where(certain, 1.0, -np.expm1(-np.exp(np.minimum(logw + begin, CERTAIN))))
    at_once = max(1, MOST_NUMBERS // (max(1, len(some)) * left))
    for first in range(0, len(nodes), at_once):
        s, step = nodes[first : first + at_once], weights[first : first + at_once]
        alone, whole = _fewer(some, left, s)
        found[~certain & ~never] += (_arriving(some, s) * alone) @ step
        found[never] += _arriving(logw[never], s) @ (whole * step)
    return np.minimum(found, 1.0)


def _find_edges(logw: Doubles, k: int) -> tuple[float, float]:
    """The logarithms of t₀, until which k arrive with a chance of `EDGE` at most, and of t₁, after which fewer have.

    Of two bounds the nearer: that one arrives of those after the k − 1 greatest, or not one of the k greatest; and
    Chernoff's, exp(k − μ) (μ / k)^k for a mean of μ arrivals.
    """
    ordered, most = np.sort(logw)[::-1], -np.log(EDGE)
    begin = -most - ordered[k - 1] - np.log(np.exp(ordered[k - 1 :] - ordered[k - 1]).sum())
    end = np.log(most + np.log(k)) - ordered[k - 1]
    times = np.linspace(begin, end, GRID)
    mean = -np.expm1(-np.exp(np.minimum(logw[:, None] + times, CERTAIN))).sum(axis=0)
    beyond = mean - k + k * np.log(k / mean) > most
    before, after = times[(mean < k) & beyond], times[(mean > k) & beyond]
    return float(before.max(initial=begin)), float(after.min(initial=end))


@lru_cache(maxsize=256)
def _nodes(count: int) -> tuple[Doubles, Doubles]:
    """The nodes and weights of Gauss and Legendre on [−1, 1]: (Q,), (Q,)."""
    return np.polynomial.legendre.leggauss(count)


def _arriving(logw: Doubles, nodes: Doubles) -> Doubles:
    """The density of log T at each node: (m, Q)."""
    rate = np.exp(np.minimum(logw[:, None] + nodes, CERTAIN))
    density: Doubles = rate * np.exp(-rate)
    return density


def _fewer(logw: Doubles, k: int, nodes: Doubles) -> tuple[Doubles, Doubles]:
    """The chance that fewer than k have arrived at each node, without each candidate, (m, Q), and with all: (Q,)."""
    rate = np.exp(np.minimum(logw[:, None] + nodes, CERTAIN))
    here, gone = -np.expm1(-rate)[..., None], np.exp(-rate)[..., None]
    before = np.empty((len(logw), len(nodes), k))  # of the first n, how many have arrived: P(0) to P(k − 1)
    count = np.zeros((len(nodes), k))
    count[:, 0] = 1
    for n in range(len(logw)):
        before[n] = count
        count = _add(count, here[n], gone[n])
    whole = count.sum(axis=1)
    after = np.zeros((len(nodes), k))
    after[:, 0] = 1
    alone = np.empty((len(logw), len(nodes)))
    for n in reversed(range(len(logw))):
        alone[n] = np.einsum("qk,qk->q", before[n], np.cumsum(after, axis=1)[:, ::-1])
        after = _add(after, here[n], gone[n])
    return alone, whole


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
