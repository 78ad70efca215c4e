"""Packed arrays → batches of whole requests.

Letters: R requests · C candidates · X drawn pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.batches.batch import Batch
from corank.batches.build import build_batch, group
from corank.batches.encoded_batch import EncodedBatch
from corank.batches.negatives import Negatives
from corank.batches.sampling import Population, draw_order, select
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Ints, Longs, Mask
from corank.data.dataset import PackedDataset
from corank.data.derived_columns import pair_rows
from corank.data.packed_history import read_history_items, read_query_rows
from corank.data.shard import Shard
from corank.distributed.ranks import Ranks
from corank.features.history import HistoryNeeds
from corank.features.input_layout import Attended, Bags, Layout


@dataclass(frozen=True)
class Reader:
    """Reads batches of whole requests from the shards of a split.

    Shards are read in a drawn order, and their requests are shuffled within. Packing spreads requests over shards by a
    hash, so this mixes well and touches one shard's pages at a time. Each of `world` readers takes every world-th
    batch.
    """

    packed: PackedDataset
    split: str
    requests: int
    """Requests a batch."""
    population: Population | None = None
    """Candidates to read; all if not given."""
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    """Who reads: this process among those that share each batch."""
    sharded: bool = False
    """Whether the embedding tables are sharded over the ranks (`JointModel.sharded`)."""
    attended: tuple[Attended, ...] = ()
    """The histories that a stage attends to."""
    sees_ranks: bool = False
    """Whether a stage sees the ranks of others, so that the batch must tell how many candidates each represents."""
    layout: Layout = field(init=False)
    negatives: Negatives = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(self.packed.schema, self.packed.encoders.sizes))
        object.__setattr__(self, "negatives", Negatives(self.packed, self.split))

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards of the split."""
        return self.packed.splits[self.split]

    def __len__(self) -> int:
        """Return the batches of an epoch, of all ranks."""
        return sum(-(-len(shard) // self.requests) for shard in self.shards)

    def read_shuffled(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Read the batches of a training epoch in a drawn order, from the `skip`-th on."""
        plan = self._plan(np.random.default_rng([self.seed, epoch]))
        yield from self._read([(n, *part) for n, part in enumerate(plan)][skip:], epoch)

    def read_ordered(self) -> Iterator[Batch]:
        """Read all batches in the order of the log."""
        yield from self._read([(n, *part) for n, part in enumerate(self._plan(None))], 0)

    def _plan(self, rng: np.random.Generator | None) -> Iterator[tuple[Shard, Longs]]:
        order = np.arange(len(self.shards)) if rng is None else rng.permutation(len(self.shards))
        for shard in (self.shards[n] for n in order):
            index = np.arange(len(shard)) if rng is None else rng.permutation(len(shard))
            for first in range(0, len(index), self.requests):
                yield shard, np.sort(index[first : first + self.requests])

    def read_encoded(self, epoch: int) -> Iterator[EncodedBatch]:
        """Read the batches of `read_shuffled`, before they are looked up in embedding tables."""
        plan = self._plan(np.random.default_rng([self.seed, epoch]))
        for number, part in enumerate(plan):
            yield self._encode(epoch, number, *part)

    def _read(self, plan: list[tuple[int, Shard, Longs]], epoch: int) -> Iterator[Batch]:
        # no thread reads ahead: on a CPU it takes from the step what it saves (LOG.md)
        for part in plan:
            if part[0] % self.ranks.world == self.ranks.rank:
                yield self._batch(epoch, *part)

    def _batch(self, epoch: int, number: int, shard: Shard, requests: Longs) -> Batch:
        return build_batch(
            self.layout, self._encode(epoch, number, shard, requests), self.ranks, self.sharded
        )

    def _encode(self, epoch: int, number: int, shard: Shard, requests: Longs) -> EncodedBatch:
        found = self._candidates(shard, requests, np.random.default_rng([self.seed, epoch, number]))
        item, item_start, order = group(found.row)
        item_of = np.empty(len(found.row), dtype=np.int32)
        item_of[order] = np.repeat(np.arange(len(item), dtype=np.int32), np.diff(item_start))
        histories = read_history_items(self.packed, shard, requests, self._histories)
        position = None if shard.position is None else found.column(shard.position, -1)
        return EncodedBatch(
            user=shard.user[requests],
            query=read_query_rows(self.packed, shard, requests, histories),
            item=self.packed.items.take(item),
            cross=self._cross(shard, requests, found),
            request_of=found.request_of,
            item_of=item_of,
            item_row=item,
            ordinal=self.negatives.item_of_row[item],
            by_item=Bags(order, item_start, None, len(item)),
            level=found.level,
            exposed=len(self.packed.data.levels) - 1,
            weight=found.column(shard.weight, 1),
            labels={name: found.column(values, -1) for name, values in shard.labels.items()},
            scores={name: found.column(values, np.nan) for name, values in shard.scores.items()},
            columns=self._columns(shard, found),
            position=None if position is None else position.astype(np.int64),
            draw_order=found.draw_order,
            represents=found.represents,
            share=self._share[item],
            histories={attended: self._events(histories[attended.history]) for attended in self.attended},
        )

    @cached_property
    def _histories(self) -> list[str]:
        return list(
            dict.fromkeys(
                [*HistoryNeeds.of(self.packed.schema).for_rows, *(a.history for a in self.attended)]
            )
        )

    def _events(self, items: Ragged) -> tuple[Rows, Ragged]:
        """Return the distinct items of some histories, and the position of each event's item among them."""
        distinct, position = np.unique(items.flat(), return_inverse=True)
        return self.packed.items.take(distinct), Ragged.from_lengths(items.length, position.astype(np.int32))

    def _columns(self, shard: Shard, found: "_Candidates") -> dict[str, Floats]:
        logged = {name: found.column(values, np.nan) for name, values in shard.columns.items()}
        return logged | {name: values[found.row] for name, values in self.packed.item_columns.items()}

    def _candidates(self, shard: Shard, requests: Longs, rng: np.random.Generator) -> "_Candidates":
        start, stop = shard.request_start[requests], shard.request_start[requests + 1]
        logged = _ranges(start, stop - start)
        request_of = np.repeat(np.arange(len(requests), dtype=np.int32), stop - start)
        if self.population is None:
            return _Candidates(request_of, logged, shard.item[logged], shard.level[logged], None)
        level, row = shard.level[logged], shard.item[logged]
        order = draw_order(request_of, level, rng)
        keep = select(self.population, level, order)
        held = _Candidates(request_of[keep], logged[keep], row[keep], level[keep], order[keep])
        if self.sees_ranks:
            held = replace(held, represents=_represented(request_of, level, keep))
        # candidates that are not read must not be drawn as negatives of their request either
        beyond = self.negatives.draw(self.population, held.row, request_of, row, shard.time[requests], rng)
        return held.with_negatives(*beyond)

    def _cross(self, shard: Shard, requests: Longs, found: "_Candidates") -> Rows:
        cross, beyond = shard.cross.take(found.logged), np.flatnonzero(found.logged < 0)
        if not len(beyond):
            return cross
        pairs = pair_rows(self.packed, shard, requests, found.request_of[beyond], found.row[beyond])
        return cross.with_rows(beyond, pairs)

    @cached_property
    def _share(self) -> Floats:
        """For each item row the share of its item among the candidates of the population."""
        item = self.negatives.item_of_row
        counts = np.bincount(item, self.negatives.counts(self.population))
        share: Floats = (counts / max(1, counts.sum())).astype(np.float32)[item]
        return share


@dataclass(frozen=True)
class _Candidates:
    """The candidates of a batch, by request: (C,) each."""

    request_of: Ints
    logged: Longs
    """Position in the shard, -1 for a negative beyond the log."""
    row: Ints
    level: NDArray[np.uint8]
    draw_order: Ints | None
    represents: Floats | None = None

    def column(self, values: NDArray[Any] | None, otherwise: float) -> Floats:
        """Read a column of the log; `otherwise` for negatives beyond the log."""
        if values is None:
            return np.full(len(self.logged), otherwise, dtype=np.float32)
        read = values[self.logged].astype(np.float32)
        read[self.logged < 0] = otherwise
        return read

    def with_negatives(
        self, request: Ints, row: Ints, source: NDArray[np.uint8], draw_order: Ints
    ) -> "_Candidates":
        """Insert X drawn pairs."""
        if not len(request):
            return self
        assert self.draw_order is not None
        request_of = np.concatenate((self.request_of, request))
        order = np.argsort(request_of.astype(np.uint16), kind="stable")
        return _Candidates(
            request_of[order],
            np.concatenate((self.logged, np.full(len(request), -1)))[order],
            np.concatenate((self.row, row))[order],
            np.concatenate((self.level, source))[order],
            np.concatenate((self.draw_order, draw_order))[order],
            # a pair that was no candidate represents none
            None
            if self.represents is None
            else np.concatenate((self.represents, np.zeros(len(request), np.float32)))[order],
        )


def _ranges(start: Longs, length: Longs) -> Longs:
    """Concatenate the ranges start[n], …, start[n] + length[n] − 1."""
    ends = np.cumsum(length)
    ranges: Longs = np.arange(length.sum()) + np.repeat(start - (ends - length), length)
    return ranges


def _represented(request_of: Ints, level: NDArray[np.uint8], keep: Mask) -> Floats:
    """Count how many candidates of its request and level each kept candidate represents."""
    group = request_of.astype(np.int64) << 8 | level
    _, group = np.unique(group, return_inverse=True)
    times: Floats = (np.bincount(group) / np.maximum(np.bincount(group, keep), 1)).astype(np.float32)
    kept: Floats = times[group[keep]]
    return kept
