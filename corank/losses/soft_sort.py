"""Differentiable sorting and top-k selection.

NeuralSort: P̂[t, i] = softmax over i of ((n + 1 − 2t) s_i − Σ_k |s_i − s_k|) / τ, t = 1 … n, is about 1 if s_i is
the t-th largest. Source: Grover et al., Stochastic Optimization of Sorting Networks via Continuous Relaxations, ICLR
2019, arXiv 1903.08850. P̂ itself is never in memory: its sums are found from few of its rows, block by block.

Letters: R requests · n the longest list · b requests of a block · K rows of P̂ that are computed · m rows that follow
from each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from corank.core.lazy import autograd_function, lazy
from corank.losses.padded import FAR, falling_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

BLOCK = 1 << 18
"""Computed entries of P̂ in a block: as many as fit the cache of a core, with what is made of them."""
KEPT = 1 << 21
"""Computed entries that are kept until the backward, where a batch has no more: 50 MB of each stage."""
LARGEST = {"float32": 30.0, "float64": 300.0}
"""By precision the largest exponent of e of which two powers may be multiplied."""
LEAST = {"float32": -80.0, "float64": -700.0}
"""The least: a smaller power is a subnormal number, which takes ten times as long, and times two of the largest it is
nothing beside 1."""


class Lists(NamedTuple):
    """What the lists of sorted scores are, without gradient: found once for all sums."""

    size: Tensor
    """Scores of each list: (R, 1)."""
    within: Tensor
    """1, 0 for padding; a product takes a fifth of the time of `masked_fill`: (R, n)."""
    far: Tensor
    """0, FAR for padding: (R, n)."""
    slope: Tensor
    """n + 1 − 2t with each list's own n, 0 for padding: (R, n)."""


@dataclass(frozen=True)
class NeuralSort:
    """The relaxed sorting of lists of scores, the first `keep` of which are kept."""

    scores: Tensor
    """Scores over the temperature, descending, 0 beyond the list: (R, n)."""
    order: Tensor
    """The position in the list of each of `scores`: (R, n)."""
    lists: Lists
    rows: RelaxedRows
    """Of P̂; all sums below read the same."""

    @classmethod
    def of(cls, scores: Tensor, mask: Tensor, temperature: float, keep: int) -> Self:
        """Sort the scores (R, n) where `mask` (R, n) bool."""
        order, size = falling_order(scores.masked_fill(~mask, -torch.inf)), mask.sum(1, keepdim=True)
        row = torch.arange(1, scores.shape[1] + 1, device=size.device)
        within = (row <= size).to(scores.dtype)
        listed = scores.gather(1, order) * within / temperature
        lists = Lists(size, within, (1 - within) * FAR, (size + 1 - 2 * row) * within)
        return cls(listed, order, lists, RelaxedRows(listed.detach(), lists, keep))

    def top(self) -> Tensor:
        """Compute log Σ_{t ≤ keep} P̂[t, i], 0 for padding: (R, n)."""
        return self._unsort(self._sums()[0])

    def survival(self) -> tuple[Tensor, Tensor]:
        """Compute log(Σ_{t ≤ keep} P̂[t, i] / raw_i) and log(Σ_{t > keep} P̂[t, i] / raw_i): (R, n) each.

        raw_i = Σ_t P̂[t, i], without gradient. Where a list has no rows beyond `keep`, the second is −FAR.
        """
        top, below = self._sums()
        raw = torch.logaddexp(top.detach(), below.detach())
        return self._unsort(top - raw), self._unsort(below - raw)

    def likelihood(self, relevance: Tensor) -> Tensor:
        """Compute log P̂[t, i_t], i_t the t-th by `relevance` (R, n), ties in the order of the scores: (R, n)."""
        target = falling_order(relevance.gather(1, self.order) - self.lists.far)
        log_probabilities: Tensor = _likelihood(self.scores, self.lists, self.rows, target)
        return log_probabilities

    def _sums(self) -> tuple[Tensor, Tensor]:
        top, below = _log_sums(self.scores, self.lists, self.rows)
        return top, below

    def _unsort(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values).scatter(1, self.order, values)


def threshold(scores: Tensor, mask: Tensor, keep: int) -> Tensor:
    """Compute x − (x[k] + x[k+1]) / 2, x[k] the k-th largest of the list; x in lists of k or fewer: (R, n).

    Source: DFTopK, arXiv 2510.11472.

    Args:
        scores: x: (R, n).
        mask: False for padding: (R, n) bool.
        keep: k.
    """
    if scores.shape[1] <= keep:
        return scores
    order = falling_order(scores.masked_fill(~mask, -torch.inf))
    last, first = scores.gather(1, order[:, keep - 1 : keep + 1]).unbind(1)
    middle = ((last + first) / 2).masked_fill(mask.sum(1) <= keep, 0)
    return scores - middle.unsqueeze(1)


def _spread(scores: Tensor, lists: Lists) -> Tensor:
    """Σ_k |s_i − s_k| of descending scores, FAR for padding: (R, n)."""
    upto = scores.cumsum(1)
    spread = torch.addcmul(2 * upto - upto[:, -1:], lists.slope - 1, scores)
    return torch.addcmul(lists.far, spread, lists.within)


def _score_gradient(down: Tensor, spread: Tensor, lists: Lists) -> Tensor:
    """Gradient of descending scores, from that of the scores themselves and that of Σ_k |s_i − s_k|: (R, n)."""
    upto = spread.cumsum(1)
    return down + lists.slope * spread + upto[:, -1:] - 2 * upto + spread


class _Block(NamedTuple):
    """P̂ of some lists, as products of few powers, its rows in two parts: those up to `keep`, and those below.

    In the m rows around t₀, P̂[t₀ + j, i] = P̂[t₀, i] · exp(−2 j s_i) · norm[t₀, j]. So n²/m + n·m powers are computed
    instead of n², and sums along rows and columns are matrix products.
    """

    some: slice
    """The lists."""
    begun: Tensor
    """P̂[t₀, i]: (b, K, n)."""
    scaled: Tensor
    """P̂[t₀, i] over its largest of the part, so that an item with next to no mass keeps its digits: (b, K, n)."""
    scale: Tensor
    """log of that largest: (b, 2, n)."""
    on: Tensor
    """exp(−2 j s_i): (b, m, n)."""
    norm: Tensor
    """What makes a row sum to 1, 0 beyond the list and beyond the part: (b, m, K)."""
    base: Tensor
    """log Σ_i of the powers of row t₀, whose exponents are those of centred scores: (b, 1, K)."""
    slope: Tensor
    """n + 1 − 2t with each list's own n: (b, m, K)."""
    total: Tensor
    """Σ_t P̂[t, i] of each part over its largest row: (b, 2, n)."""


class RelaxedRows:
    """The blocks of P̂ of all lists, kept until the last gradient if they are few."""

    def __init__(self, scores: Tensor, lists: Lists, keep: int) -> None:
        """
        Args:
            scores: descending, without gradient: (R, n).
            lists: what they are.
            keep: how many rows are the first part.
        """
        n, size = scores.shape[1], lists.size
        self._lists, self._sums = lists, 0
        self._kept: list[_Block] | None = None
        if not n:
            self._starts = torch.empty(0, device=size.device, dtype=torch.int64)
            return
        low, high = scores.gather(1, (size - 1).clamp_min(0)), scores[:, :1]
        self.m, dtype = _choose_powers(n, float((high - low).max()), scores.dtype)
        keep, within = min(keep, n), torch.arange(self.m, device=size.device)
        parts = [
            torch.arange(first, end, self.m, device=size.device) for first, end in ((0, keep), (keep, n))
        ]
        kept, self._starts = len(parts[0]), torch.cat(parts)
        self.parts = (slice(0, kept), slice(kept, len(self._starts)))
        row = torch.arange(n, device=size.device)
        row = torch.where(row < keep, row, row - keep + kept * self.m)
        self.place = row % self.m * len(self._starts) + row // self.m
        """The place of each row of P̂ among those that follow from all computed ones, m · K: (n,)."""
        self.centred = (scores - (low + high) / 2).to(dtype) * lists.within
        self.spread = _spread(self.centred, lists)
        self._middle = (self.m - 1) // 2
        self._rows = self._starts + within.unsqueeze(1)
        self._in_part = (self._starts >= keep) | (self._rows < keep)

    def __iter__(self) -> Iterator[_Block]:
        """Give the blocks, computed again unless they are kept."""
        if self._kept is not None:
            yield from self._kept
            return
        lists, n = self._lists.within.shape
        computed = n * len(self._starts)
        step = max(1, BLOCK // max(1, computed))
        blocks = (self._compute(slice(first, first + step)) for first in range(0, lists if n else 0, step))
        if lists * computed <= KEPT:
            self._kept = [*blocks]
        yield from self._kept or blocks

    def count_sum(self) -> None:
        """Count a sum whose gradient will be computed."""
        self._sums += 1

    def count_gradient(self) -> None:
        """Count a gradient; free the blocks after the last one, before those of the networks are computed."""
        self._sums -= 1
        if self._sums <= 0:
            self._kept = None

    def _compute(self, some: slice) -> _Block:
        s, many = self.centred[some, None], self._lists.size[some, None]
        slope = (many - 1.0 - 2 * (self._starts + self._middle)).transpose(1, 2)
        logits = torch.addcmul(-self.spread[some, None], slope.to(s.dtype), s)
        log = logits.log_softmax(2)
        base = (logits[:, :, 0] - log[:, :, 0]).unsqueeze(1)
        masked = log - FAR * (self._starts >= many).transpose(1, 2)
        scale = masked.new_full((len(masked), 2, masked.shape[2]), -FAR)
        for n, part in enumerate(self.parts):
            if part.stop > part.start:
                scale[:, n] = masked[:, part].amax(1)
                masked[:, part].sub_(scale[:, n : n + 1])
        least = LEAST[str(s.dtype).removeprefix("torch.")]
        scaled = masked.clamp_min_(least).exp_()
        begun, on = log.clamp_min_(least).exp_(), self._steps(s[:, 0])
        norm = torch.bmm(on, begun.transpose(1, 2))
        norm = norm.reciprocal_() * (self._in_part & (self._rows < many))
        sums = torch.bmm(norm.transpose(1, 2), on).mul_(scaled)
        total = torch.stack([sums[:, part].sum(1) for part in self.parts], dim=1)
        return _Block(some, begun, scaled, scale, on, norm, base, many - 1.0 - 2 * self._rows, total)

    def _steps(self, scores: Tensor) -> Tensor:
        """exp(−2 j s_i), −m/2 < j ≤ m/2, each from the one beside it: (b, n) → (b, m, n)."""
        steps = scores.new_empty(len(scores), self.m, scores.shape[1])
        steps[:, self._middle] = 1
        down = (-2 * scores).exp_()
        up = down.reciprocal()
        for j in range(self._middle, self.m - 1):
            torch.mul(steps[:, j], down, out=steps[:, j + 1])
        for j in range(self._middle, 0, -1):
            torch.mul(steps[:, j], up, out=steps[:, j - 1])
        return steps


def _choose_powers(n: int, width: float, dtype: torch.dtype) -> tuple[int, torch.dtype]:
    """How many rows follow from one, and in which precision: as many as √n if products of two powers are numbers of it.

    Args:
        n: rows.
        width: the largest difference of two scores of a list.
        dtype: of the scores.
    """
    most = max(1, math.isqrt(n))
    # a row is at most m / 2 rows away from that which it follows from: exponents are at most that times width
    single, double = (1 + 2 * int(LARGEST[name] / max(1.0, width)) for name in ("float32", "float64"))
    if dtype == torch.float32 and single >= most:
        return most, dtype
    return min(most, double), torch.float64


class _LogSums:
    """log Σ_{t ≤ keep} P̂[t, i] and log Σ_{t > keep} P̂[t, i], in logarithms: P̂ vanishes where the true top has low
    scores, where gradients matter. −FAR where a list has no such rows.

    With H a sum and g the gradient of log H, that of the logits is g_i r[t, i] − P̂[t, i] Σ_k g_k r[t, k] where
    r = P̂ / H.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, lists: Lists, rows: RelaxedRows) -> tuple[Tensor, Tensor]:
        sums = scores.new_zeros(len(scores), 2, scores.shape[1])
        for block in rows:
            log = block.total.log().add_(block.scale).clamp_min_(-FAR)  # of no rows −∞
            sums[block.some] = log.to(scores.dtype)
        ctx.lists, ctx.rows = lists, rows
        rows.count_sum()
        top, below = sums.mul_(lists.within.unsqueeze(1)).unbind(1)
        return top, below

    @staticmethod
    def backward(ctx: Any, top: Tensor, below: Tensor) -> tuple[Tensor, None, None]:
        lists, rows = ctx.lists, ctx.rows
        gradient = torch.stack((top, below), dim=1).mul_(lists.within.unsqueeze(1))
        down, through = torch.zeros_like(top), torch.zeros_like(top)
        for block in rows:
            own = gradient[block.some] * (block.total > 0)
            each, shares = own / (block.total + (block.total == 0)), torch.empty_like(block.scaled)
            for n, part in enumerate(rows.parts):
                torch.mul(block.scaled[:, part], each[:, n : n + 1], out=shares[:, part])
            mean = torch.bmm(block.on, shares.transpose(1, 2)).mul_(block.norm).mul_(block.norm)
            weights = torch.cat((block.slope * block.norm, block.slope * mean, mean), dim=2)
            of_own, of_slope, of_mean = torch.bmm(weights.transpose(1, 2), block.on).chunk(3, dim=1)
            down[block.some] = (of_own * shares - of_slope * block.begun).sum(1)
            through[block.some] = (of_mean * block.begun).sum(1) - own.sum(1)
        rows.count_gradient()
        return _score_gradient(down, through, lists), None, None


class _Likelihood:
    """log P̂[t, i_t]. With g_t its gradient, that of the logits is g_t (1[i = i_t] − P̂[t, i])."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, lists: Lists, rows: RelaxedRows, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        ctx.lists, ctx.rows = lists, rows
        rows.count_sum()
        log_probabilities = torch.zeros_like(scores)
        for block in rows:
            some = block.some
            at = target[some]
            logits = lists.slope[some] * rows.centred[some].gather(1, at) - rows.spread[some].gather(1, at)
            norms = (block.base - block.norm.log()).flatten(1).index_select(1, rows.place)
            log_probabilities[some] = (logits - norms.clamp_max_(FAR)).to(scores.dtype)
        return log_probabilities.mul_(lists.within)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (target,), lists, rows = ctx.saved_tensors, ctx.lists, ctx.rows
        gradient = gradient * lists.within
        down = torch.zeros_like(gradient).scatter_add_(1, target, gradient * lists.slope)
        through = torch.zeros_like(gradient).scatter_add_(1, target, gradient).neg_()
        for block in rows:
            weights = torch.zeros_like(block.norm).flatten(1)
            weights.index_copy_(1, rows.place, gradient[block.some].to(weights.dtype))
            weights = weights.view_as(block.norm) * block.norm
            weights = torch.cat((weights * block.slope, weights), dim=2)
            of_slope, of_row = torch.bmm(weights.transpose(1, 2), block.on).chunk(2, dim=1)
            down[block.some] -= (of_slope * block.begun).sum(1)
            through[block.some] += (of_row * block.begun).sum(1)
        rows.count_gradient()
        return _score_gradient(down, through, lists), None, None, None


_log_sums: Callable[..., tuple[Tensor, Tensor]] = autograd_function(_LogSums)
_likelihood: Callable[..., Tensor] = autograd_function(_Likelihood)
