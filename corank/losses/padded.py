"""Candidates laid out by request, for losses over lists.

Letters: R requests · C candidates · n the longest list of the batch.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from corank.batches.batch import Batch

FAR = 1e30
"""A logit beyond all others that is still a number: differences of two are not NaN."""


@dataclass(frozen=True)
class Lists:
    index: Tensor
    """The candidate at each place, 0 where there is none: (R, n) int64."""
    mask: Tensor
    """Whether there is a candidate: (R, n) bool."""
    size: Tensor
    """Candidates of each list: (R,)."""

    @classmethod
    def of(cls, batch: Batch, chosen: Tensor) -> Self:
        """The `chosen` candidates, (C,) bool, of each request in the order of the batch."""
        requests = len(batch.numbers["query"])
        candidate = torch.nonzero(chosen).squeeze(1)
        request = batch.request_of.index_select(0, candidate).long()
        size = torch.bincount(request, minlength=requests)
        start = size.cumsum(0) - size
        n = int(size.max()) if len(candidate) else 0
        place = torch.arange(len(candidate), device=candidate.device) - start.index_select(0, request)
        index = torch.zeros(requests * n, dtype=torch.int64, device=candidate.device)
        index.index_copy_(0, request * n + place, candidate)
        mask = torch.arange(n, device=size.device) < size.unsqueeze(1)
        return cls(index.view(requests, n), mask, size)

    def __call__(self, values: Tensor, otherwise: float = 0.0) -> Tensor:
        """A value a candidate, `otherwise` where there is none: (C,) → (R, n)."""
        laid = values.index_select(0, self.index.view(-1)).view(self.index.shape)
        return laid.masked_fill(~self.mask, otherwise)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each list's values, 0 of an empty one: (R, n) → (R,)."""
        return torch.where(self.mask, values, 0).sum(1) / self.size.clamp_min(1)
