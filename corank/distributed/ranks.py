"""The processes that train together, and what they send each other.

Letters: W ranks · N rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among W that train one model; alone, all that it would send stays here.

    Every method but the properties is a collective: all ranks call it, in the same order. `what` names it in errors and
    in `sent`.

    Example:
        ranks = Ranks()
        ranks.sum(torch.ones(3), "example")
    """

    rank: int = 0
    world: int = 1
    sent: Counter[str] = field(default_factory=Counter, compare=False)
    """Bytes that this rank sent to others, by collective."""

    @property
    def alone(self) -> bool:
        """Whether this process trains alone."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor, what: str) -> Tensor:
        """Sum a tensor over all ranks, in place; the sum is the same, bit for bit, on all of them."""
        if not self.alone:
            dist.all_reduce(tensor)
            self.sent[what] += 2 * tensor.nbytes * (self.world - 1) // self.world
        return tensor

    def exchange_counts(self, counts: Sequence[int], what: str) -> list[int]:
        """Send a number to each rank. Returns what each rank sent to this one."""
        if self.alone:
            return list(counts)
        ours = torch.tensor(counts)
        theirs = torch.empty_like(ours)
        dist.all_to_all_single(theirs, ours)
        self.sent[what] += ours.nbytes * (self.world - 1) // self.world
        return [int(n) for n in theirs]

    def exchange(self, rows: Tensor, counts: Sequence[int], received: Sequence[int], what: str) -> Tensor:
        """Send rows to each rank, the first `counts[0]` to rank 0 and so on. Returns those received, in rank order."""
        if self.alone:
            return rows
        out = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), list(received), list(counts))
        here = counts[self.rank]
        self.sent[what] += rows.nbytes // max(1, len(rows)) * (len(rows) - here)
        return out

    def gather(self, rows: Tensor, what: str) -> list[Tensor]:
        """Gather N rows of every rank, each its own number, in rank order: on all ranks."""
        if self.alone:
            return [rows]
        counts = [torch.empty(1, dtype=torch.long) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        most = max(int(n) for n in counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        self.sent[what] += padded.nbytes * (self.world - 1)
        return [part[: int(n)] for part, n in zip(parts, counts, strict=True)]

    def share(self, value: Any, what: str) -> Any:
        """Give every rank the first one's value, of JSON types."""
        if self.alone:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self, what: str) -> None:
        """Wait until all ranks are here."""
        if not self.alone:
            dist.barrier()
