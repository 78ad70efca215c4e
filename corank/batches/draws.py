"""Random numbers by request: each is a hash of the seed, the epoch, the request and how many were drawn for it before.

So what a request draws does not depend on the batch that it is in, on the rank that reads it or on where an epoch was
resumed. The generator is SplitMix64, started anew for each request and purpose.

Letters: R requests · C draws.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from corank.core.hash_index import splitmix64
from corank.core.types import Hashes, Index, Longs

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
