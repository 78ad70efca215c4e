"""Where a stage places a candidate in its request, as a number that a later stage may see.

Letters: R requests · C candidates.
"""

import numpy as np

from corank.core.types import Doubles, Floats, Longs

FARTHEST = 1e4
"""Logits beyond say nothing more, and would cost the others digits."""
SOFT = 0.05
"""Logits nearer than this are about equal: a score that differs in its last digit, online, moves no place."""


def places(scores: Floats, start: Longs, stands_for: Floats | None = None) -> Floats:
    """p → (½ − p)·√12 of the share p of the request's candidates that score higher: high for the best; (C,).

    p_i = Σ_j w_j r((z_j − z_i) / 2s + ½) / Σ_j w_j, with r cutting to 0 … 1 and s = SOFT: the plain share but for
    candidates within s of each other, so that p changes by 1/2s a logit at most.

    Args:
        scores: logits z: (C,).
        start: where each request's candidates begin, and the end: (R + 1,).
        stands_for: w, how many candidates each stands for: (C,); 1 unless given.
    """
    z = scores.astype(np.float64).clip(-FARTHEST, FARTHEST)
    w = np.ones(len(z)) if stands_for is None else stands_for.astype(np.float64)
    if not len(z):
        return scores
    size = np.diff(start)
    request = np.repeat(np.arange(len(size)), size)
    # requests side by side on one axis, too far apart to meet
    z = z - z.min()
    along = z + request * (z.max() + 4 * SOFT)
    order = np.argsort(along, kind="stable")
    sorted_ = along[order]
    weight, weighted = _sums(w[order]), _sums((w * z)[order])
    low, high = np.searchsorted(sorted_, along - SOFT), np.searchsorted(sorted_, along + SOFT, side="right")
    near = weight[high] - weight[low]
    above = weight[start[1:]][request] - weight[high]
    above += near / 2 + (weighted[high] - weighted[low] - z * near) / (2 * SOFT)
    whole = (weight[start[1:]] - weight[start[:-1]])[request]
    share = above / np.where(whole > 0, whole, 1)
    place: Floats = ((0.5 - share) * np.sqrt(12)).astype(np.float32)
    return place


def _sums(values: Doubles) -> Doubles:
    return np.append(0, np.cumsum(values))


def bisect_ranges(times: Longs, low: Longs, high: Longs, cut: Longs) -> Longs:
    """Find in N ranges of an array the first value that is not below a cut, as `bisect_left` does in one.

    Each range is searched by itself, so that `times` may be a memory map larger than memory.

    Args:
        times: ascending within each range.
        low, high: begin and end of each range: (N,).
        cut: the value to look for in each: (N,).

    Returns:
        The index into `times`, `high` if all values of the range are below the cut: (N,).
    """
    low, high = low.copy(), high.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        before = times[middle] < cut[open_]
        low[open_[before]] = middle[before] + 1
        high[open_[~before]] = middle[~before]
    return low
