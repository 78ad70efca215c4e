"""Packed arrays → batches of whole requests, gathered from the shards that they are spread over.

Shards of object storage are fetched while those before them are read.

Letters: R requests · C candidates · X drawn pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corank.batches.batch import Batch, group
from corank.batches.build import EncodedBatch, build_batch, read_attended
from corank.batches.draws import Draws, Purpose, Streams, draw
from corank.batches.negatives import draw_negatives
from corank.batches.outcomes import OutcomeRates, draw_outcomes
from corank.batches.sampling import (
    BATCH,
    FIRST_CODE,
    Outcomes,
    Population,
    Reading,
    draw_order,
    in_levels,
    select,
)
from corank.core.ragged import Ragged, Rows, concat_ranges
from corank.core.types import Floats, Index, Ints, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.derived_columns import pair_rows, snapshot_rows
from corank.data.packed.history import read_history_items, read_query_rows
from corank.data.packed.shard import LoggedRequests
from corank.distributed.ranks import Ranks
from corank.features.history_events import HistoryNeeds
from corank.features.input_layout import Attended, Bags, Layout

Block = Sequence[Longs]
"""The requests of some batches, by number."""


def read_ahead(
    blocks: Iterator[Block], sizes: Sequence[int], prefetch: Callable[[int], object], beyond: bool = False
) -> Iterator[Block]:
    """Yield blocks unchanged, after prefetching the shards that the next block reads.

    Args:
        blocks: in the order in which they are read.
        sizes: how many requests each shard has.
        prefetch: begins to fetch the shard of a number.
        beyond: whether the shard after those of the next block is read soon, too.
    """
    ends = np.cumsum(sizes)
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        if following is not None:
            wanted = np.unique(np.searchsorted(ends, np.concatenate(following), "right")).tolist()
            after = [wanted[-1] + 1] if beyond and wanted and wanted[-1] + 1 < len(sizes) else []
            for n in [*wanted, *after]:
                prefetch(n)
        yield block
        block = following


@dataclass(frozen=True)
class DrawnRequests:
    """The requests of a batch: R of those that were gathered."""

    rows: LoggedRequests
    requests: Longs
    """Their positions among `rows`: (R,)."""
    numbers: Longs
    """Their numbers in the split: (R,)."""
    draws: Draws
    """Of the epoch."""


def gather_batches(
    shards: Sequence[LoggedRequests], sizes: Sequence[int], batches: Sequence[Longs], draws: Draws
) -> Iterator[DrawnRequests]:
    """Gather the requests of some batches, shard by shard, in the order of the log.

    A batch has a few requests of every shard. To read each by itself would take longer than to copy what is read of
    many batches at once. If one shard has all, nothing is copied.

    Args:
        shards: of the split; those that have none of the requests are not opened.
        sizes: how many requests each shard has.
        batches: the numbers of the requests of each batch.
        draws: of the epoch.
    """
    numbers = np.sort(np.concatenate(batches))
    begins = np.cumsum([0, *sizes])
    bounds = np.searchsorted(numbers, begins)
    parts = [
        (shards[n], numbers[bounds[n] : bounds[n + 1]] - begins[n])
        for n in np.flatnonzero(np.diff(bounds)).tolist()
    ]
    if len(parts) > 1:
        first, *others = (shard.take(requests) for shard, requests in parts)
        rows, positions = first.concat(*others), np.arange(len(numbers))
    else:
        rows, positions = parts[0] if parts else (shards[0], numbers)
    for batch in batches:
        yield DrawnRequests(rows, positions[np.searchsorted(numbers, batch)], batch, draws)


def check_lengths(lists: Iterable[Ragged], index: Index) -> None:
    """Raise IndexError if a list is longer than all values together: to gather it might take all memory."""
    for ragged in lists:
        length = ragged.length[index]
        if len(length) and not (length.min() >= 0 and length.max() <= len(ragged.values)):
            raise IndexError(f"lists of {length.min()} to {length.max()} among {len(ragged.values):,} values")


BLOCK = 2**25
"""Bytes of packed data that are gathered at a time, about; a batch at least. It takes twice as much for a moment."""
MOST_BATCHES = 1024
"""Batches that are gathered at a time, at most."""


@dataclass(frozen=True)
class Reader:
    """Reads a rank's part of batches of whole requests from the shards of a split.

    Which requests a batch has is up to `Streams`. What is drawn for a request depends on the seed, the epoch and the
    request alone. So the parts of all ranks, in their order, are the batch of a reader that is alone.
    """

    packed: PackedDataset
    split: str
    requests: int
    """Requests a batch, of all ranks."""
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
    """Whether a stage sees the ranks of others, so that the batch must hold how many candidates each represents."""
    readings: Sequence[Reading] = ()
    """What learns from the batches: requests from which none of it can learn are left out; none are, if not given."""

    outcomes: Mapping[int, Outcomes] = field(default_factory=dict)
    """What is drawn for losses of outcomes, by its code in the population."""

    def __post_init__(self) -> None:
        with self.packed.naming_damage():
            _ = self.streams, self.layout

    @cached_property
    def layout(self) -> Layout:
        """The tables and inputs of the features."""
        return Layout(self.packed.schema, self.packed.encoders.sizes)

    @cached_property
    def streams(self) -> Streams:
        """The requests that are read, distributed to batches and ranks."""
        sizes = self._sizes
        if self.numbers is not None:
            sizes = np.diff(np.searchsorted(self.numbers, np.cumsum([0, *sizes]))).tolist()
        return Streams(sizes, self.requests, self.ranks)

    def __len__(self) -> int:
        """Return the batches of an epoch, which are the same on all ranks."""
        return len(self.streams)

    @property
    def gathers(self) -> bool:
        """Whether reading a batch is a collective: negatives are drawn among the items of all ranks."""
        return not self.ranks.alone and bool((self.population or {}).get(BATCH))

    def read_shuffled(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Read the batches of a training epoch in a drawn order, from the `skip`-th on."""
        # no thread reads ahead: on a CPU it takes from the step what it saves (LOG.md)
        for drawn in self._read_drawn(Draws(self.seed, epoch), skip):
            yield self._batch(drawn)

    def read_ordered(self) -> Iterator[Batch]:
        """Read all batches in the order of the log; the rank's part of each is contiguous."""
        draws = Draws(self.seed, 0)
        blocks = self._number([requests] for requests in self.streams.read_ordered())
        for batches in self._fetch_ahead(blocks, beyond=True):
            yield from map(self._batch, self._gather(batches, draws))

    def read_encoded(self, epoch: int) -> Iterator[EncodedBatch]:
        """Read the batches of `read_shuffled`, before they are looked up in embedding tables."""
        for drawn in self._read_drawn(Draws(self.seed, epoch)):
            with self.packed.naming_damage():
                yield self._encode(drawn)

    def _read_drawn(self, draws: Draws, skip: int = 0) -> Iterator[DrawnRequests]:
        blocks = self._number(self.streams.read_drawn(draws, skip, self._together))
        for batches in self._fetch_ahead(blocks):
            yield from self._gather(batches, draws)

    @cached_property
    def _sizes(self) -> list[int]:
        """The requests of each shard."""
        return [shard.requests for shard in self.packed.manifest.splits[self.split]]

    @cached_property
    def numbers(self) -> Longs | None:
        """The numbers of the split's requests from which something can be learnt, ascending; None if all are read."""
        contents, chosen = self.packed.request_contents[self.split], None
        for population, labels in self.readings:
            levels = {code for code in population if code < FIRST_CODE}
            if not labels and len(levels) < len(population):
                return None  # every request has negatives beyond the log
            mask = contents.select(levels, labels)
            chosen = mask if chosen is None else chosen | mask
        if chosen is None or chosen.all() or not chosen.any():
            return None
        return np.flatnonzero(chosen)

    def _number(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Turn positions among the requests that are read into numbers of the split's requests."""
        for batches in blocks:
            yield batches if self.numbers is None else [self.numbers[batch] for batch in batches]

    def _fetch_ahead(self, blocks: Iterator[Block], beyond: bool = False) -> Iterator[Block]:
        if self.packed.url is None:
            return blocks
        return read_ahead(blocks, self._sizes, partial(self.packed.prefetch, self.split), beyond)

    @cached_property
    def _together(self) -> int:
        """How many batches are gathered at a time."""
        files = self.packed.manifest.files.items()
        size = sum(file.bytes for name, file in files if name.startswith(f"{self.split}/"))
        batch = size / max(1, sum(self._sizes)) * self.requests / self.ranks.world
        return min(max(1, int(BLOCK / batch)), MOST_BATCHES) if batch else 1

    def _gather(self, batches: Sequence[Longs], draws: Draws) -> Iterator[DrawnRequests]:
        with self.packed.naming_damage():
            yield from gather_batches(self.packed.splits[self.split], self._sizes, batches, draws)

    def _batch(self, drawn: DrawnRequests) -> Batch:
        with self.packed.naming_damage():
            return build_batch(self.layout, self._encode(drawn), self.ranks, self.sharded)

    def _encode(self, drawn: DrawnRequests) -> EncodedBatch:
        rows, requests, candidates = drawn.rows, drawn.requests, self._candidates(drawn)
        check_lengths((*rows.query.lists, *rows.operands.lists.values()), requests)
        check_lengths(rows.cross.lists, candidates.logged)
        item, item_start, order = group(candidates.row)
        item_of = np.empty(len(candidates.row), dtype=np.int32)
        item_of[order] = np.repeat(np.arange(len(item), dtype=np.int32), np.diff(item_start))
        histories = read_history_items(self.packed, rows, requests, self._histories)
        ordinal = self.packed.item_ordinals[item]
        position = None if rows.position is None else candidates.column(rows.position, -1)
        return EncodedBatch(
            user=rows.user[requests],
            query=read_query_rows(self.packed, rows, requests, histories),
            item=self.packed.items.take(item),
            cross=self._cross(rows, requests, candidates),
            snapshot=self._snapshot(rows, requests, candidates),
            time=rows.time[requests],
            request_of=candidates.request_of,
            item_of=item_of,
            item_row=item,
            ordinal=ordinal,
            by_item=Bags(order, item_start, None, len(item)),
            level=candidates.level,
            exposed=len(self.packed.data.levels) - 1,
            weight=candidates.column(rows.weight, 1),
            labels={name: candidates.column(values, -1) for name, values in rows.labels.items()},
            scores={name: candidates.column(values, np.nan) for name, values in rows.scores.items()},
            columns=self._columns(rows, candidates),
            position=None if position is None else position.astype(np.int64),
            draw_order=candidates.draw_order,
            represents=candidates.represents,
            everywhere=tuple(self.packed.data.everywhere),
            log_rates={
                name: rates.log_rate[rates.group[candidates.row]] for name, rates in self._rates.items()
            },
            share=self.packed.item_counts[self.split].shares(ordinal, self.population),
            draws=drawn.draws.keys(Purpose.LOSSES, drawn.numbers),
            histories={
                attended: read_attended(self.packed, rows, requests, attended, histories[attended.history])
                for attended in self.attended
            },
        )

    @cached_property
    def _histories(self) -> list[str]:
        return list(
            dict.fromkeys(
                [*HistoryNeeds.of(self.packed.schema).for_rows, *(a.history for a in self.attended)]
            )
        )

    def _columns(self, rows: LoggedRequests, candidates: "_Candidates") -> dict[str, Floats]:
        logged = {name: candidates.column(values, np.nan) for name, values in rows.columns.items()}
        return logged | {name: values[candidates.row] for name, values in self.packed.item_columns.items()}

    def _candidates(self, drawn: DrawnRequests) -> "_Candidates":
        rows, requests, population = drawn.rows, drawn.requests, self.population
        start, stop = rows.request_start[requests], rows.request_start[requests + 1]
        logged = concat_ranges(start, stop - start)
        request_of = np.repeat(np.arange(len(requests), dtype=np.int32), stop - start)
        level, row = rows.level[logged], rows.item[logged]
        if population is None:
            return _Candidates(request_of, logged, row, level, None)
        wanted = np.flatnonzero(in_levels(population, level))
        of, wanted_level = request_of[wanted], level[wanted]
        keys = drawn.draws.keys(Purpose.CANDIDATES, drawn.numbers)
        order = draw_order(of, wanted_level, draw(keys[of], logged[wanted] - start[of]))
        kept = np.flatnonzero(select(population, wanted_level, order))
        keep = wanted[kept]
        candidates = _Candidates(of[kept], logged[keep], row[keep], wanted_level[kept], order[kept])
        if self.sees_ranks:
            candidates = replace(candidates, represents=_represented(of, wanted_level, kept))
        time, batch = rows.time[requests], candidates.row
        if population.get(BATCH):
            batch = torch.cat(self.ranks.gather(torch.from_numpy(batch), "items of the batch")).numpy()
        # candidates that are not read must not be drawn as negatives of their request either
        beyond = draw_negatives(
            self.packed, self.split, population, drawn.draws, drawn.numbers, time, request_of, row, batch
        )
        candidates = candidates.with_drawn(*beyond, np.full(len(beyond[0]), -1))
        keys = drawn.draws.keys(Purpose.OUTCOMES, drawn.numbers)
        for code, outcomes in self.outcomes.items():
            label, number = rows.labels[outcomes.label].take(logged), logged - start[request_of]
            own, count = keys ^ np.uint64(code), population[code] or 0
            chosen, chosen_order = draw_outcomes(label, request_of, own, number, count)
            source = np.full(len(chosen), code, dtype=np.uint8)
            candidates = candidates.with_drawn(
                request_of[chosen], row[chosen], source, chosen_order, logged[chosen]
            )
        return candidates

    @cached_property
    def _rates(self) -> dict[str, OutcomeRates]:
        """The rates of each label whose outcomes are drawn."""
        return {one.label: OutcomeRates.count(self.packed, one) for one in self.outcomes.values()}

    def _snapshot(self, rows: LoggedRequests, requests: Longs, candidates: "_Candidates") -> Rows | None:
        if not self.layout.width("snapshot"):
            return None
        snapshot, beyond = rows.snapshot.take(candidates.logged), candidates.beyond
        if not len(beyond):
            return snapshot
        times = rows.time[requests][candidates.request_of[beyond]]
        return snapshot.with_rows(beyond, snapshot_rows(self.packed, candidates.row[beyond], times))

    def _cross(self, rows: LoggedRequests, requests: Longs, candidates: "_Candidates") -> Rows:
        cross, beyond = rows.cross.take(candidates.logged), candidates.beyond
        if not len(beyond):
            return cross
        pairs = pair_rows(self.packed, rows, requests, candidates.request_of[beyond], candidates.row[beyond])
        return cross.with_rows(beyond, pairs)


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
        read = values.take(self.logged).astype(np.float32)
        read[self.beyond] = otherwise
        return read

    @cached_property
    def beyond(self) -> Index:
        """Where the negatives beyond the log are: (X,)."""
        return np.flatnonzero(self.logged < 0)

    def with_drawn(
        self, request: Ints, row: Ints, source: NDArray[np.uint8], draw_order: Ints, logged: Longs
    ) -> "_Candidates":
        """Insert X drawn pairs, `logged` as in the fields."""
        if not len(request):
            return self
        assert self.draw_order is not None
        request_of = np.concatenate((self.request_of, request))
        order = np.argsort(request_of.astype(np.uint16), kind="stable")
        return _Candidates(
            request_of[order],
            np.concatenate((self.logged, logged))[order],
            np.concatenate((self.row, row))[order],
            np.concatenate((self.level, source))[order],
            np.concatenate((self.draw_order, draw_order))[order],
            # a drawn pair represents none
            None
            if self.represents is None
            else np.concatenate((self.represents, np.zeros(len(request), np.float32)))[order],
        )


def _represented(request_of: Ints, level: NDArray[np.uint8], kept: Index) -> Floats:
    """Count how many candidates of its request and level each kept candidate represents."""
    group = request_of.astype(np.int64) * (int(level.max(initial=0)) + 1) + level
    all_, some = np.bincount(group), group[kept]
    represented: Floats = (all_[some] / np.bincount(some, minlength=len(all_))[some]).astype(np.float32)
    return represented
