"""What is drawn: random numbers by request, and which requests of a split each batch has and each rank reads.

A number is a hash of the seed, the epoch, the request and how many were drawn for it before. So what a request draws
does not depend on the batch that it is in, on the rank that reads it or on where an epoch was resumed. The generator
is SplitMix64, started again for each request and purpose.

A split's requests, numbered in the order of its shards, are cut into STREAMS ranges of equal size. Every batch takes
equally many requests of each stream, and a rank reads a contiguous range of streams. So batches do not depend on the
number of ranks, every rank makes the same steps, and a rank reads its part of the shards alone.

Letters: R requests · C draws · S streams · K batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from corank.core.errors import DistributedError
from corank.core.hash_index import splitmix64
from corank.core.types import Hashes, Index, Longs
from corank.distributed.ranks import Ranks

_STEP = np.uint64(0x9E3779B97F4A7C15)
"""By how much the state of SplitMix64 grows with each number."""


class Purpose(IntEnum):
    """What is drawn. Each purpose has numbers of its own."""

    PIECES = 0
    """The order of a stream's pieces."""
    REQUESTS = 1
    """The order of the requests of a piece."""
    CANDIDATES = 2
    """The order of the candidates of a request and level."""
    BATCH = 3
    """Negatives among the items of the batch."""
    CATALOGUE = 4
    """Negatives among the items of the catalogue."""
    LOSSES = 5
    """What losses draw."""
    OUTCOMES = 6
    """Candidates to set against those with an outcome."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of an epoch.

    Example:
        >>> keys = Draws(seed=0, epoch=1).keys(Purpose.CATALOGUE, np.array([7]))
        >>> below(draw(keys, np.array([0])), 10)
        array([3])
    """

    seed: int
    epoch: int

    def keys(self, purpose: Purpose, requests: Index) -> Hashes:
        """Make the state from which each request draws: (R,).

        Args:
            purpose: what is drawn.
            requests: their numbers in the split: (R,).
        """
        state = np.zeros(1, dtype=np.uint64)
        for part in (self.seed, self.epoch, purpose):
            state = splitmix64(state ^ np.uint64(part % 2**64))
        return splitmix64(state ^ requests.astype(np.uint64))

    def shuffle(self, purpose: Purpose, requests: Longs) -> Longs:
        """Put distinct requests into a drawn order: (R,)."""
        return requests[np.argsort(self.keys(purpose, requests))]


def draw(keys: Hashes, number: Index) -> Hashes:
    """Draw 64 bits.

    Args:
        keys: the state of the request of each draw: (C,).
        number: how many numbers the request draws before: (C,).
    """
    return splitmix64(keys + number.astype(np.uint64) * _STEP)


def below(hashes: Hashes, count: int) -> Longs:
    """Convert draws to whole numbers from 0 to `count` − 1, count below 2³²: (C,)."""
    return (((hashes >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


STREAMS = 32
"""Ranges that a split is cut into; at most so many ranks can read it."""

_BITS = 40
"""Of the number of a request."""


def cut(requests: Index | int) -> Longs:
    """Cut numbers of requests into STREAMS parts, floor((n + s) / S) in the s-th, which sum to n: (..., S)."""
    parts: Longs = (np.asarray(requests, dtype=np.int64)[..., None] + np.arange(STREAMS)) // STREAMS
    return parts


@dataclass(frozen=True)
class Streams:
    """Distributes the requests of a split to batches and ranks.

    Example:
        streams = Streams([1000, 800], requests=512, ranks=Ranks())
        for batches in streams.read_drawn(Draws(seed=0, epoch=0), skip=0, together=4):
            ...
    """

    shards: Sequence[int]
    """The requests of each shard."""
    requests: int
    """Of a batch, over all ranks."""
    ranks: Ranks

    def __post_init__(self) -> None:
        if self.ranks.world > STREAMS:
            raise DistributedError(
                f"rank {self.ranks.rank}: {self.ranks.world} processes, but a split is read as {STREAMS} streams, "
                f"and each process reads at least one: start at most {STREAMS} processes"
            )

    @property
    def total(self) -> int:
        """The requests of the split."""
        return sum(self.shards)

    def __len__(self) -> int:
        """Return the batches of an epoch, which are the same on all ranks."""
        return -(-self.total // self.requests)

    def read_drawn(self, draws: Draws, skip: int, together: int) -> Iterator[list[Longs]]:
        """Read this rank's part of the batches of an epoch, in a drawn order.

        A stream reads its pieces of shards in a drawn order, and the requests of a piece in a drawn order.

        Args:
            draws: of the epoch.
            skip: the first batch.
            together: batches to give at a time, at most.

        Yields:
            The numbers of each batch's requests, ascending.
        """
        first, last = self._bounds(self.ranks.rank), self._bounds(self.ranks.rank + 1)
        begin = cut(min(skip * self.requests, self.total))
        streams = [_StreamOrder(self._pieces(s), draws, int(begin[s])) for s in range(first, last)]
        for batch in range(skip, len(self), together):
            end = min(batch + together, len(self))
            bounds = np.minimum(np.arange(batch, end + 1) * self.requests, self.total)
            size = np.diff(cut(bounds)[:, first:last], axis=0)  # (K, streams of this rank)
            taken = np.concatenate(
                [order.take(int(n)) for order, n in zip(streams, size.sum(0), strict=True)]
            )
            batch_of = np.repeat(np.tile(np.arange(len(size)), last - first), size.T.ravel())
            ascending = np.sort(batch_of << _BITS | taken) & (1 << _BITS) - 1
            yield np.split(ascending, np.cumsum(size.sum(1))[:-1])

    def read_ordered(self) -> Iterator[Longs]:
        """Read this rank's part of all batches in the order of the log: a contiguous part of each."""
        rank, world = self.ranks.rank, self.ranks.world
        for begin in range(0, self.total, self.requests):
            size = min(self.requests, self.total - begin)
            yield np.arange(begin + size * rank // world, begin + size * (rank + 1) // world)

    def _bounds(self, rank: int) -> int:
        """Return the first stream of a rank."""
        return STREAMS * rank // self.ranks.world

    def _pieces(self, stream: int) -> list[tuple[int, int]]:
        """Cut the range of a stream where shards end: the first request of each piece, and its end."""
        ends = np.cumsum(cut(self.total))
        first, last = (int(ends[stream - 1]) if stream else 0), int(ends[stream])
        between = [int(end) for end in np.cumsum(self.shards) if first < end < last]
        return [(begin, end) for begin, end in pairwise([first, *between, last]) if begin < end]


class _StreamOrder:
    """The requests of a stream in the order in which an epoch reads them."""

    def __init__(self, pieces: Sequence[tuple[int, int]], draws: Draws, skip: int) -> None:
        self._pieces = self._shuffle(dict(pieces), draws, skip)
        self._rest = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> Longs:
        """Return the numbers of the next requests; the stream must have so many."""
        while len(self._rest) < count:
            self._rest = np.concatenate((self._rest, next(self._pieces)))
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _shuffle(self, ends: Mapping[int, int], draws: Draws, skip: int) -> Iterator[Longs]:
        """Draw the orders of pieces and of the requests of each, from the `skip`-th request on."""
        for begin in draws.shuffle(Purpose.PIECES, np.array(list(ends), dtype=np.int64)).tolist():
            if skip < (size := ends[begin] - begin):
                yield draws.shuffle(Purpose.REQUESTS, np.arange(begin, ends[begin]))[skip:]
            skip = max(0, skip - size)
