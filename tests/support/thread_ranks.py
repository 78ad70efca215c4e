"""Ranks that are threads of one process, for tests of what several ranks read: they gather, and do nothing else."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import TypeVar

from torch import Tensor

from corank.distributed.ranks import Ranks
from tests.support.waiting import PATIENCE

T = TypeVar("T")


@dataclass
class Table:
    """Where the ranks put what they gather."""

    barrier: Barrier
    rows: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """One of several ranks in one process."""

    table: Table = field(default_factory=lambda: Table(Barrier(1)))

    def gather(self, rows: Tensor, what: str, counts: Sequence[int] | None = None) -> list[Tensor]:
        self.table.rows[self.rank] = rows
        self.table.barrier.wait(timeout=PATIENCE)
        gathered = [self.table.rows[rank] for rank in range(self.world)]
        self.table.barrier.wait(timeout=PATIENCE)
        return gathered


def run_ranks(world: int, function: Callable[[Ranks], T]) -> list[T]:
    """Call a function on every rank at once. Returns its values in rank order."""
    table = Table(Barrier(world))
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(function, [ThreadRanks(rank, world, table=table) for rank in range(world)]))
