"""Packed arrays → batches of whole requests.

Letters: R requests · C candidates · X drawn pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.batch import Batch, assemble, grouped
from corank.layout import Bags, Layout
from corank.negatives import Negatives
from corank.pack import Packed, Shard
from corank.rows import Floats, Ints, Rows
from corank.sampling import Population, chosen, drawn


@dataclass(frozen=True)
class Reader:
    """Batches of whole requests from the shards of a split.

    Shards are read in a drawn order, their requests shuffled within; packing spread requests over shards by a hash,
    so this mixes well and touches one shard's pages at a time. Each of `world` readers takes every world-th batch.
    """

    packed: Packed
    split: str
    requests: int
    """Requests a batch."""
    population: Population | None = None
    """Candidates to read; all unless given."""
    seed: int = 0
    rank: int = 0
    world: int = 1
    layout: Layout = field(init=False)
    negatives: Negatives = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(self.packed.schema, self.packed.encoders.sizes))
        object.__setattr__(self, "negatives", Negatives(self.packed, self.split))

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.packed.splits[self.split]

    def __len__(self) -> int:
        """Batches an epoch, of all ranks."""
        return sum(-(-len(shard) // self.requests) for shard in self.shards)

    def shuffled(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of a training epoch in a drawn order, from the `skip`-th on."""
        plan = self._plan(np.random.default_rng([self.seed, epoch]))
        yield from self._read([(n, *part) for n, part in enumerate(plan)][skip:], epoch)

    def ordered(self) -> Iterator[Batch]:
        """All batches in log order."""
        yield from self._read([(n, *part) for n, part in enumerate(self._plan(None))], 0)

    def _plan(self, rng: np.random.Generator | None) -> Iterator[tuple[Shard, NDArray[np.int64]]]:
        order = np.arange(len(self.shards)) if rng is None else rng.permutation(len(self.shards))
        for shard in (self.shards[n] for n in order):
            index = np.arange(len(shard)) if rng is None else rng.permutation(len(shard))
            for first in range(0, len(index), self.requests):
                yield shard, np.sort(index[first : first + self.requests])

    def _read(self, plan: list[tuple[int, Shard, NDArray[np.int64]]], epoch: int) -> Iterator[Batch]:
        # not ahead in a thread: on a CPU it takes from the step what it saves (LOG.md)
        for part in plan:
            if part[0] % self.world == self.rank:
                yield self._batch(epoch, *part)

    def _batch(self, epoch: int, number: int, shard: Shard, requests: NDArray[np.int64]) -> Batch:
        found = self._candidates(shard, requests, np.random.default_rng([self.seed, epoch, number]))
        item, item_start, order = grouped(found.row)
        item_of = np.empty(len(found.row), dtype=np.int32)
        item_of[order] = np.repeat(np.arange(len(item), dtype=np.int32), np.diff(item_start))
        return assemble(
            self.layout,
            shard.query.take(requests),
            self.packed.items.take(item),
            self._cross(shard, found.logged),
            found.request_of,
            item_of,
            Bags(order, item_start, None, len(item)),
            found.level,
            len(self.packed.data.levels) - 1,
            found.column(shard.weight, 1),
            {name: found.column(values, -1) for name, values in shard.labels.items()},
            {name: found.column(values, np.nan) for name, values in shard.scores.items()},
            found.place,
            self._share[item],
        )

    def _candidates(
        self, shard: Shard, requests: NDArray[np.int64], rng: np.random.Generator
    ) -> "_Candidates":
        start, stop = shard.request_start[requests], shard.request_start[requests + 1]
        logged = _ranges(start, stop - start)
        request_of = np.repeat(np.arange(len(requests), dtype=np.int32), stop - start)
        if self.population is None:
            return _Candidates(request_of, logged, shard.item[logged], shard.level[logged], None)
        level, row = shard.level[logged], shard.item[logged]
        place = drawn(request_of, level, rng)
        keep = chosen(self.population, level, place)
        held = _Candidates(request_of[keep], logged[keep], row[keep], level[keep], place[keep])
        # those that are not read are candidates of the request all the same, so never its negatives
        beyond = self.negatives.draw(self.population, held.row, request_of, row, shard.time[requests], rng)
        return held.joined(*beyond)

    def _cross(self, shard: Shard, logged: NDArray[np.int64]) -> Rows:
        """Crosses are logged with the pair, so those of a pair beyond the log are missing."""
        cross, beyond = shard.cross.take(logged), np.flatnonzero(logged < 0)
        return (
            cross.replaced(beyond, self._no_cross.take(np.zeros(len(beyond), np.int64)))
            if len(beyond)
            else cross
        )

    @cached_property
    def _share(self) -> Floats:
        counts = self.negatives.counts(self.population)
        share: Floats = (counts / max(1, counts.sum())).astype(np.float32)
        return share

    @cached_property
    def _no_cross(self) -> Rows:
        nothing = pl.DataFrame({"": [None]})
        return self.packed.encoders.rows(self.packed.schema, "cross", nothing)


@dataclass(frozen=True)
class _Candidates:
    """The candidates of a batch, by request: each (C,)."""

    request_of: Ints
    logged: NDArray[np.int64]
    """Place in the shard, -1 for a negative beyond the log."""
    row: Ints
    level: NDArray[np.uint8]
    place: Ints | None

    def column(self, values: NDArray[Any] | None, otherwise: float) -> Floats:
        """A column of the log, `otherwise` where it has none."""
        if values is None:
            return np.full(len(self.logged), otherwise, dtype=np.float32)
        read = values[self.logged].astype(np.float32)
        read[self.logged < 0] = otherwise
        return read

    def joined(self, request: Ints, row: Ints, source: NDArray[np.uint8], place: Ints) -> "_Candidates":
        """With drawn pairs, X of them."""
        if not len(request):
            return self
        assert self.place is not None
        request_of = np.concatenate((self.request_of, request))
        order = np.argsort(request_of.astype(np.uint16), kind="stable")
        return _Candidates(
            request_of[order],
            np.concatenate((self.logged, np.full(len(request), -1)))[order],
            np.concatenate((self.row, row))[order],
            np.concatenate((self.level, source))[order],
            np.concatenate((self.place, place))[order],
        )


def _ranges(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of start[n], …, start[n] + length[n] − 1, one n after another."""
    ends = np.cumsum(length)
    ranges: NDArray[np.int64] = np.arange(length.sum()) + np.repeat(start - (ends - length), length)
    return ranges
