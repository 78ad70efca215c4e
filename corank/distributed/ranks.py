"""The processes that train together, and what they send each other.

Letters: W ranks · N rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from corank.distributed.collective_log import CollectiveLog

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among W that train one model; alone, all that it would send stays here.

    Every method with a `what` is a collective: all ranks call it, in the same order. `what` names it in errors and in
    `sent`.

    Example:
        ranks = Ranks()
        ranks.sum(torch.ones(3), "example")
    """

    rank: int = 0
    world: int = 1
    sent: Counter[str] = field(default_factory=Counter, compare=False)
    """Bytes that this rank sent to others, by collective."""
    log: CollectiveLog = field(default_factory=CollectiveLog, compare=False)
    """Where this rank is, for the message if a rank does not arrive."""
    restarts: int = 0
    """How often the launcher has started all ranks again."""

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
            with self.log.of(what):
                dist.all_reduce(tensor)
            self.sent[what] += 2 * tensor.nbytes * (self.world - 1) // self.world
        return tensor

    def exchange_counts(self, counts: Sequence[int], what: str) -> list[int]:
        """Send a number to each rank. Returns what each rank sent to this one."""
        if self.alone:
            return list(counts)
        ours = torch.tensor(counts)
        theirs = torch.empty_like(ours)
        with self.log.of(what):
            dist.all_to_all_single(theirs, ours)
        self.sent[what] += ours.nbytes * (self.world - 1) // self.world
        return [int(n) for n in theirs]

    def exchange(self, rows: Tensor, counts: Sequence[int], received: Sequence[int], what: str) -> Tensor:
        """Send rows to each rank, the first `counts[0]` to rank 0 and so on. Returns those received, in rank order."""
        if self.alone:
            return rows
        out = rows.new_empty(sum(received), *rows.shape[1:])
        with self.log.of(what):
            dist.all_to_all_single(out, rows.contiguous(), list(received), list(counts))
        here = counts[self.rank]
        self.sent[what] += rows.nbytes // max(1, len(rows)) * (len(rows) - here)
        return out

    def gather(self, rows: Tensor, what: str, counts: Sequence[int] | None = None) -> list[Tensor]:
        """Gather N rows of every rank, each its own number, in rank order: on all ranks.

        Args:
            rows: of this rank.
            what: names the collective.
            counts: N of each rank, if it is known; else they are gathered first.
        """
        if self.alone:
            return [rows]
        counts = self._lengths(rows, what) if counts is None else counts
        padded = _pad(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        with self.log.of(what):
            dist.all_gather(parts, padded)
        self.sent[what] += padded.nbytes * (self.world - 1)
        return [part[:n] for part, n in zip(parts, counts, strict=True)]

    def gather_first(self, content: bytes, what: str) -> list[bytes]:
        """Send bytes to the first rank. Returns those of all ranks there, in rank order; nothing elsewhere."""
        if self.alone:
            return [content]
        rows = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0).byte()
        counts = self._lengths(rows, what)
        padded = _pad(rows, max(counts))
        parts = [torch.empty_like(padded) for _ in range(self.world)] if self.first else None
        with self.log.of(what):
            dist.gather(padded, parts)
        self.sent[what] += 0 if self.first else padded.nbytes
        return [part[:n].numpy().tobytes() for part, n in zip(parts or (), counts, strict=False)]

    def _lengths(self, rows: Tensor, what: str) -> list[int]:
        counts = [torch.empty(1, dtype=torch.long) for _ in range(self.world)]
        with self.log.of(what):
            dist.all_gather(counts, torch.tensor([len(rows)]))
        return [int(n) for n in counts]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same ranks: a copy of a model is of the same process."""
        return self

    def share(self, value: Any, what: str) -> Any:
        """Give every rank the first one's value, of JSON types."""
        if self.alone:
            return value
        content = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        with self.log.of(what):
            dist.broadcast(length, src=0)
        if not self.first:
            content = content.new_empty(int(length))
        with self.log.of(what):
            dist.broadcast(content, src=0)
        return json.loads(content.numpy().tobytes())

    def first_does(self, function: Callable[[], T], what: str) -> T:
        """Call a function on the first rank, however long it takes; the others wait.

        Returns its value, of JSON types, on all ranks. If it raises, all ranks end, and the first reports the error.
        """
        if self.alone:
            return function()
        value: T = self.log.lead(function, what) if self.first else self.log.follow(what)
        return value

    def wait(self, what: str) -> None:
        """Wait until all ranks are here."""
        if not self.alone:
            with self.log.of(what):
                dist.barrier()


ALONE = Ranks()
"""A process that trains alone."""


def _pad(rows: Tensor, length: int) -> Tensor:
    padded = rows.new_zeros(length, *rows.shape[1:])
    padded[: len(rows)] = rows
    return padded
