"""Shards of object storage are fetched while those before them are read."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from corank.core.types import Longs

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
