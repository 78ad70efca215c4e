"""Differentiable sorting and top-k selection.

NeuralSort: P̂[t, i] = softmax over i of ((n + 1 − 2t) s_i − Σ_k |s_i − s_k|) / τ, t = 1 … n, is about 1 if s_i is
the t-th largest. Source: Grover et al., Stochastic Optimization of Sorting Networks via Continuous Relaxations, ICLR
2019, arXiv 1903.08850. Entries of P̂ are computed in blocks, and again for the gradient, so that memory holds a block.

Letters: R requests · n the longest list · b requests of a block.
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
"""Entries of P̂ in a block: as many as fit the cache of a core, with what is computed of them."""
KEPT = 1 << 21
"""Entries of lower rows that are kept until the backward, where a batch has no more: 50 MB of each stage."""
RANGE = 300.0
"""The largest exponent of e for which products of two such powers are still doubles."""


class Lists(NamedTuple):
    """What the lists of sorted scores are, without gradient: found once for all sums."""

    size: Tensor
    """Scores of each list: (R, 1)."""
    beyond: Tensor
    """Which positions are padding: (R, n) bool."""
    slope: Tensor
    """n + 1 − 2t with each list's own n, 0 for padding: (R, n)."""
    spread: Tensor
    """Σ_k |s_i − s_k|, FAR for padding: (R, n)."""


@dataclass(frozen=True)
class NeuralSort:
    """The relaxed sorting of lists of scores; P̂ itself is never in memory."""

    scores: Tensor
    """Scores over the temperature, descending, 0 beyond the list: (R, n)."""
    order: Tensor
    """The position in the list of each of `scores`: (R, n)."""
    lists: Lists

    @classmethod
    def of(cls, scores: Tensor, mask: Tensor, temperature: float) -> Self:
        """Sort the scores (R, n) where `mask` (R, n) bool."""
        order, size = falling_order(scores.masked_fill(~mask, -torch.inf)), mask.sum(1, keepdim=True)
        beyond = _padding(size, scores.shape[1])
        listed = scores.gather(1, order).masked_fill(beyond, 0) / temperature
        slope = _slope(size, beyond).to(scores.dtype)
        return cls(listed, order, Lists(size, beyond, slope, _spread(listed.detach(), slope, beyond)))

    def top(self, keep: int) -> Tensor:
        """Compute log Σ_{t ≤ keep} P̂[t, i], 0 for padding: (R, n)."""
        top: Tensor = _top(self.scores, self.lists, keep)
        return self._unsort(top)

    def survival(self, keep: int) -> tuple[Tensor, Tensor]:
        """Compute log(Σ_{t ≤ keep} P̂[t, i] / raw_i) and log(Σ_{t > keep} P̂[t, i] / raw_i): (R, n) each.

        raw_i = Σ_t P̂[t, i], without gradient. Where a list has no rows beyond `keep`, the second is −FAR.
        """
        top: Tensor = _top(self.scores, self.lists, keep)
        below: Tensor = _below(self.scores, self.lists, keep)
        raw = torch.logaddexp(top.detach(), below.detach())
        return self._unsort(top - raw), self._unsort(below - raw)

    def likelihood(self, relevance: Tensor) -> Tensor:
        """Compute log P̂[t, i_t], i_t the t-th by `relevance` (R, n), ties in the order of the scores: (R, n)."""
        of_scores = relevance.gather(1, self.order).masked_fill(self.lists.beyond, -torch.inf)
        target = falling_order(of_scores)
        log_probabilities: Tensor = _likelihood(self.scores, self.lists, target)
        return log_probabilities

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


def _padding(size: Tensor, n: int) -> Tensor:
    """Mark the positions that are padding: (R, n)."""
    return torch.arange(n, device=size.device) >= size


def _slope(size: Tensor, beyond: Tensor) -> Tensor:
    row = torch.arange(1, beyond.shape[1] + 1, device=size.device)
    return (size + 1 - 2 * row).masked_fill(beyond, 0)


def _spread(scores: Tensor, slope: Tensor, beyond: Tensor) -> Tensor:
    upto = scores.cumsum(1)
    spread = slope * scores + 2 * upto - scores - upto[:, -1:]
    return spread.masked_fill(beyond, FAR)


def _score_gradient(down: Tensor, spread: Tensor, slope: Tensor) -> Tensor:
    """Gradient of descending scores, from that of the scores themselves and that of Σ_k |s_i − s_k|: (R, n)."""
    upto = spread.cumsum(1)
    return down + slope * spread + upto[:, -1:] - 2 * upto + spread


def _blocks(scores: Tensor, rows: int) -> Iterator[slice]:
    """Slices of the lists such that `rows` rows of P̂ are about BLOCK entries; none if all lists are empty."""
    lists, n = scores.shape
    step = max(1, BLOCK // max(1, n * rows))
    return (slice(first, first + step) for first in range(0, lists if n else 0, step))


def _logits(scores: Tensor, spread: Tensor, slope: Tensor) -> Tensor:
    """log P̂ up to a constant of each row; scores and spread (b, n), slope of the rows (b, t): (b, t, n)."""
    return torch.addcmul(-spread.unsqueeze(1), slope.unsqueeze(2), scores.unsqueeze(1))


class _Top:
    """log Σ_{t ≤ keep} P̂[t, i], in logarithms: P̂ vanishes where the true top has low scores, where gradients matter.

    With H the sum and g the gradient of log H, that of the logits is g_i r[t, i] − P̂[t, i] Σ_k g_k r[t, k] where
    r = P̂ / H.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, lists: Lists, keep: int) -> Tensor:
        rows = min(keep, scores.shape[1])
        slope, beyond = lists.slope[:, :rows], lists.beyond[:, :rows]
        top, norm = torch.zeros_like(scores), torch.zeros_like(slope)
        for some in _blocks(scores, rows):
            logits = _logits(scores[some], lists.spread[some], slope[some])
            log = logits.log_softmax(2)
            norm[some] = (logits[:, :, 0] - log[:, :, 0]).masked_fill(beyond[some], FAR)
            top[some] = log.masked_fill_(beyond[some].unsqueeze(2), -FAR).logsumexp(1)
        ctx.save_for_backward(scores, norm, top)
        ctx.lists = lists
        return top.masked_fill(lists.beyond, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (scores, norm, top), lists = ctx.saved_tensors, ctx.lists
        slope, spread = lists.slope, lists.spread
        gradient = gradient.masked_fill(lists.beyond, 0)
        down, through = torch.zeros_like(scores), torch.zeros_like(scores)
        for some in _blocks(scores, norm.shape[1]):
            a, g = slope[some, : norm.shape[1]], gradient[some]
            log = _logits(scores[some], spread[some], a).sub_(norm[some].unsqueeze(2))
            # a smaller power is a subnormal number, which takes ten times as long
            share = (log - top[some].unsqueeze(1)).clamp_min_(-80).exp_()
            mean = torch.bmm(share, g.unsqueeze(2)).squeeze(2)
            own = torch.bmm(torch.stack((a, torch.ones_like(a)), dim=1), share)
            others = torch.bmm(torch.stack((a * mean, mean), dim=1), log.clamp_min_(-80).exp_())
            down[some] = g * own[:, 0] - others[:, 0]
            through[some] = others[:, 1] - g * own[:, 1]
        return _score_gradient(down, through, slope), None, None


class _LowerRows(NamedTuple):
    """P̂[t, i] for t > keep of some lists, as products of few powers; in double precision, whose range limits m.

    In the m rows from t₀ on, P̂[t₀ + j, i] = P̂[t₀, i] · exp(−2 j s_i) · norm[t₀, j]. So n²/m + n·m powers are computed
    instead of n², and sums along rows and columns are matrix products.
    """

    begun: Tensor
    """P̂[t₀, i]: (b, n/m, n)."""
    scaled: Tensor
    """P̂[t₀, i] over its largest of all t₀, so that an item with next to no mass keeps its digits: (b, n/m, n)."""
    scale: Tensor
    """log of that largest: (b, n)."""
    on: Tensor
    """exp(−2 j s_i): (b, m, n)."""
    norm: Tensor
    """What makes a row sum to 1, 0 beyond the list: (b, n/m, m)."""
    slope: Tensor
    """n + 1 − 2t with each list's own n: (b, n/m, m)."""

    @classmethod
    def of(cls, scores: Tensor, lists: Lists, keep: int) -> Iterator[tuple[slice, Self]]:
        """Slices of the lists, and their rows. Scores are descending."""
        n, size = scores.shape[1], lists.size
        if n <= keep:
            return
        low, high = scores.gather(1, (size - 1).clamp_min(0)), scores[:, :1]
        m = max(1, min(math.isqrt(n - keep), int(RANGE / max(1.0, float((high - low).max())))))
        centred = (scores - (low + high) / 2).double().masked_fill(lists.beyond, 0)
        spread, within = _spread(centred, lists.slope, lists.beyond), torch.arange(m, device=size.device)
        first = torch.arange(keep, n, m, device=size.device).unsqueeze(1)
        for some in _blocks(scores, len(first)):
            s, many = centred[some, None], size[some, None]
            log = torch.addcmul(-spread[some, None], many - 1.0 - 2 * first, s).log_softmax(2)
            masked_log = log.masked_fill(first >= many, -FAR)
            scale = masked_log.amax(1)
            begun, on = log.exp(), (-2 * within.unsqueeze(1) * s).exp()
            norm = torch.bmm(begun, on.transpose(1, 2)).reciprocal_() * (first + within < many)
            slope = many - 1.0 - 2 * (first + within)
            yield some, cls(begun, (masked_log - scale.unsqueeze(1)).exp(), scale, on, norm, slope)

    def sum(self, weights: Tensor, of: Tensor) -> Tensor:
        """Σ_t weights[t] · P̂[t, i], `of` either `begun` or `scaled`; weights (b, n/m, m): (b, n)."""
        return torch.bmm(weights * self.norm, self.on).mul_(of).sum(1)

    def total(self) -> Tensor:
        """Σ_t P̂[t, i] over its largest row: (b, n)."""
        return torch.bmm(self.norm, self.on).mul_(self.scaled).sum(1)


class _Below:
    """log Σ_{t > keep} P̂[t, i], in logarithms, as `_Top`; −FAR where a list has no such rows."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, lists: Lists, keep: int) -> Tensor:
        below = torch.full_like(scores, -FAR)
        blocks, room = [], KEPT
        for some, rows in _LowerRows.of(scores, lists, keep):
            total = rows.total()
            below[some] = torch.where(total > 0, total.log() + rows.scale, -FAR).to(scores.dtype)
            room -= rows.begun.numel()
            if room >= 0:
                blocks.append((some, rows, total))
        ctx.save_for_backward(scores)
        ctx.lists, ctx.keep, ctx.held = lists, keep, blocks if room >= 0 else None
        return below.masked_fill(lists.beyond, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (scores,), lists = ctx.saved_tensors, ctx.lists
        gradient = gradient.masked_fill(lists.beyond | (lists.size <= ctx.keep), 0)
        down, through = torch.zeros_like(scores), torch.zeros_like(scores)
        again = ((some, rows, rows.total()) for some, rows in _LowerRows.of(scores, lists, ctx.keep))
        blocks, ctx.held = ctx.held, None  # free before the gradients of networks are computed
        for some, rows, total in blocks or again:
            g = gradient[some].double() / total.masked_fill(total == 0, 1)
            mean = torch.bmm(g.unsqueeze(1) * rows.scaled, rows.on.transpose(1, 2)) * rows.norm
            own, others = rows.sum(rows.slope, rows.scaled), rows.sum(mean, rows.begun)
            down[some] = (g * own - rows.sum(rows.slope * mean, rows.begun)).to(scores.dtype)
            through[some] = (others - g * total).to(scores.dtype)
        return _score_gradient(down, through, lists.slope), None, None


class _Likelihood:
    """log P̂[t, i_t]. With g_t its gradient, that of the logits is g_t (1[i = i_t] − P̂[t, i])."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, lists: Lists, target: Tensor) -> Tensor:
        ctx.save_for_backward(scores, target)
        ctx.lists = lists
        log_probabilities = torch.zeros_like(scores)
        for some in _blocks(scores, scores.shape[1]):
            log = _logits(scores[some], lists.spread[some], lists.slope[some]).log_softmax(2)
            log_probabilities[some] = log.gather(2, target[some].unsqueeze(2)).squeeze(2)
        return log_probabilities.masked_fill(lists.beyond, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (scores, target), lists = ctx.saved_tensors, ctx.lists
        gradient = gradient.masked_fill(lists.beyond, 0)
        sloped = gradient * lists.slope
        down = torch.zeros_like(scores).scatter_add_(1, target, sloped)
        through = torch.zeros_like(scores).scatter_add_(1, target, gradient).neg_()
        for some in _blocks(scores, scores.shape[1]):
            relaxed = _logits(scores[some], lists.spread[some], lists.slope[some]).softmax(2)
            sums = torch.bmm(torch.stack((sloped[some], gradient[some]), dim=1), relaxed)
            down[some] -= sums[:, 0]
            through[some] += sums[:, 1]
        return _score_gradient(down, through, lists.slope), None, None


_top: Callable[..., Tensor] = autograd_function(_Top)
_below: Callable[..., Tensor] = autograd_function(_Below)
_likelihood: Callable[..., Tensor] = autograd_function(_Likelihood)
