"""Sorting and selecting the top, relaxed so that gradients pass.

NeuralSort: P̂[t, i] = softmax over i of ((n + 1 − 2t) s_i − Σ_k |s_i − s_k|) / τ, t = 1 … n, is about 1 where s_i is the
t-th largest (Grover et al., ICLR 2019, arXiv 1903.08850). Its n² entries are made in blocks, and made again for the
gradient, so that memory stays that of a block.

Letters: R requests · n the longest list · b requests and t rows of a block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 20
"""Entries of P̂ at a time: what fits a core's cache."""
NOWHERE = -1e30
"""A logit of probability 0 that is still a number."""


@dataclass(frozen=True)
class NeuralSort:
    scores: Tensor
    """Scores over the temperature, descending, 0 beyond the list: (R, n)."""
    order: Tensor
    """The place in the list of each of `scores`: (R, n)."""
    size: Tensor
    """Scores of each list: (R, 1)."""

    @classmethod
    def of(cls, scores: Tensor, mask: Tensor, temperature: float) -> Self:
        """Of scores (R, n) where `mask`."""
        sized = scores.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True, stable=True)
        size = mask.sum(1, keepdim=True)
        beyond = torch.arange(scores.shape[1], device=scores.device) >= size
        return cls(sized.values.masked_fill(beyond, 0) / temperature, sized.indices, size)

    def top(self, keep: int) -> Tensor:
        """log Σ_{t ≤ keep} P̂[t, i], 0 beyond the list: (R, n)."""
        top: Tensor = _top(self.scores, self.size, keep)
        return self._listed(top)

    def survival(self, keep: int) -> Tensor:
        """log of the first `keep` rows' share of Σ_t P̂[t, i], the latter without gradient: (R, n)."""
        top: Tensor = _top(self.scores, self.size, keep)
        rest = _columns(self.scores.detach(), self.size, keep, top.shape[1])
        return self._listed(top - (top.detach().exp() + rest).log())

    def likelihood(self, relevance: Tensor) -> Tensor:
        """log P̂[t, i_t] with i_t the t-th of the order by `relevance` (R, n), ties in the scores' order: (R, n)."""
        beyond = torch.arange(relevance.shape[1], device=relevance.device) >= self.size
        sorted_relevance = relevance.gather(1, self.order).masked_fill(beyond, -torch.inf)
        target = sorted_relevance.argsort(dim=1, descending=True, stable=True)
        found: Tensor = _likelihood(self.scores, self.size, target)
        return found.masked_fill(beyond, 0)

    def _listed(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values).scatter(1, self.order, values)


def threshold(scores: Tensor, mask: Tensor, keep: int) -> Tensor:
    """x − (x[k] + x[k+1]) / 2 with x[k] the k-th largest of the list: (R, n); 0 in lists that hold no more than k.

    In time linear in n. Source: DFTopK, arXiv 2510.11472.
    """
    cuts = (mask.sum(1) > keep).unsqueeze(1)
    if scores.shape[1] > keep:
        last, first = scores.masked_fill(~mask, -torch.inf).topk(keep + 1, dim=1).values[:, -2:].unbind(1)
        scores = scores - ((last + first) / 2).unsqueeze(1).masked_fill(~cuts, 0)
    return scores.masked_fill(~(mask & cuts), 0)


def _slope(size: Tensor, n: int) -> Tensor:
    """n + 1 − 2t of each list's own n, 0 beyond it: (R, n)."""
    row = torch.arange(1, n + 1, device=size.device)
    return (size + 1 - 2 * row) * (row <= size)


def _spread(scores: Tensor, size: Tensor) -> Tensor:
    """Σ_k |s_i − s_k| of descending scores, without end beyond the list: (R, n)."""
    upto = scores.cumsum(1)
    spread = _slope(size, scores.shape[1]) * scores + 2 * upto - scores - upto[:, -1:]
    return spread.masked_fill(torch.arange(scores.shape[1], device=size.device) >= size, -NOWHERE)


def _through(down: Tensor, spread: Tensor, slope: Tensor) -> Tensor:
    """The gradient of descending scores: what reaches them straight, and what reaches Σ_k |s_i − s_k|: (R, n)."""
    upto = spread.cumsum(1)
    return down + slope * spread + upto[:, -1:] - 2 * upto + spread


def _blocks(lists: int, first: int, last: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the lists and of the rows from `first` to `last`, of BLOCK entries."""
    rows = max(1, min(last - first, BLOCK // max(1, n)))
    step = max(1, BLOCK // max(1, n * rows))
    for r in range(0, lists, step):
        for t in range(first, last, rows):
            yield slice(r, r + step), slice(t, min(t + rows, last))


def _logits(scores: Tensor, spread: Tensor, slope: Tensor, lists: slice, rows: slice) -> Tensor:
    """log P̂ but for each row's constant: (b, t, n)."""
    return torch.addcmul(-spread[lists, None], slope[lists, rows, None], scores[lists, None])


def _columns(scores: Tensor, size: Tensor, first: int, last: int) -> Tensor:
    """Σ P̂[t, i] over the rows first < t ≤ last: (R, n)."""
    lists, n = scores.shape
    slope, spread = _slope(size, n).to(scores.dtype), _spread(scores, size)
    counts = (torch.arange(n, device=size.device) < size).to(scores.dtype).unsqueeze(1)
    sums = torch.zeros_like(scores)
    for some, rows in _blocks(lists, first, min(last, n), n):
        relaxed = _logits(scores, spread, slope, some, rows).softmax(2)
        sums[some] += torch.bmm(counts[some, :, rows], relaxed).squeeze(1)
    return sums


class _Top(torch.autograd.Function):
    """In logarithms, since P̂ vanishes where the true top stands low, which is where gradients matter.

    With H the sum and g the gradient of log H, that of the logits is g_i r[t, i] − P̂[t, i] Σ_k g_k r[t, k] where
    r = P̂ / H.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, size: Tensor, keep: int) -> Tensor:
        lists, n = scores.shape
        slope, spread = _slope(size, n).to(scores.dtype), _spread(scores, size)
        beyond = torch.arange(n, device=size.device) >= size
        top = torch.full_like(scores, -torch.inf)
        for some, rows in _blocks(lists, 0, min(keep, n), n):
            log = _logits(scores, spread, slope, some, rows).log_softmax(2)
            log = log.masked_fill_(beyond[some, rows, None], NOWHERE)
            top[some] = torch.logaddexp(top[some], log.logsumexp(1))
        ctx.save_for_backward(scores, size, top)
        ctx.keep = keep
        return top.masked_fill(beyond, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        scores, size, top = ctx.saved_tensors
        lists, n = scores.shape
        slope, spread = _slope(size, n).to(scores.dtype), _spread(scores, size)
        listed = torch.arange(n, device=size.device) < size
        gradient = gradient * listed
        counts = listed.to(scores.dtype)
        down, through = torch.zeros_like(scores), torch.zeros_like(scores)
        for some, rows in _blocks(lists, 0, min(ctx.keep, n), n):
            log = _logits(scores, spread, slope, some, rows).log_softmax(2)
            # a smaller exponent costs ten times as much, and its power is no normal number
            share = (log - top[some, None]).clamp_(-80, 0).exp_()
            a, one = slope[some, rows], counts[some, rows]
            mean = torch.bmm(share, gradient[some].unsqueeze(2)).squeeze(2)
            own = torch.bmm(torch.stack((a, one), dim=1), share) * gradient[some].unsqueeze(1)
            others = torch.bmm(torch.stack((a * mean, one * mean), dim=1), log.clamp_min_(-80).exp_())
            down[some] += own[:, 0] - others[:, 0]
            through[some] -= own[:, 1] - others[:, 1]
        return _through(down, through, slope), None, None


class _Likelihood(torch.autograd.Function):
    """With g_t the gradient of log P̂[t, i_t], that of the logits is g_t (1[i = i_t] − P̂[t, i])."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, size: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(scores, size, target)
        lists, n = scores.shape
        slope, spread = _slope(size, n).to(scores.dtype), _spread(scores, size)
        found = torch.zeros_like(scores)
        for some, rows in _blocks(lists, 0, n, n):
            logits = _logits(scores, spread, slope, some, rows).log_softmax(2)
            found[some, rows] = logits.gather(2, target[some, rows].unsqueeze(2)).squeeze(2)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        scores, size, target = ctx.saved_tensors
        lists, n = scores.shape
        slope, spread = _slope(size, n).to(scores.dtype), _spread(scores, size)
        sloped = gradient * slope
        down = torch.zeros_like(scores).scatter_add_(1, target, sloped)
        through = torch.zeros_like(scores).scatter_add_(1, target, gradient).neg_()
        for some, rows in _blocks(lists, 0, n, n):
            relaxed = _logits(scores, spread, slope, some, rows).softmax(2)
            sums = torch.bmm(torch.stack((sloped[some, rows], gradient[some, rows]), dim=1), relaxed)
            down[some] -= sums[:, 0]
            through[some] += sums[:, 1]
        return _through(down, through, slope), None, None


_top: Callable[..., Tensor] = _Top.apply
_likelihood: Callable[..., Tensor] = _Likelihood.apply
