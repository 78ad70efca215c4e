"""What is fetched ahead of the blocks of a reader: of four shards of ten requests."""

from collections.abc import Iterator

import numpy as np

from corank.batches.reader import Block, read_ahead

SIZES = [10] * 4


def blocks() -> Iterator[Block]:
    """Three blocks: of the first shard, of the second, and of the first and the third."""
    yield [np.array([0, 9])]
    yield [np.array([10]), np.array([19])]
    yield [np.array([1, 20])]


def test_shards_of_the_next_block_are_fetched() -> None:
    noted: list[int] = []
    seen = [(block[0][0], list(noted)) for block in read_ahead(blocks(), SIZES, noted.append)]
    assert seen == [(0, [1]), (10, [1, 0, 2]), (1, [1, 0, 2])]


def test_the_shard_beyond_is_fetched_when_blocks_are_in_order() -> None:
    noted: list[int] = []
    assert len(list(read_ahead(blocks(), SIZES, noted.append, beyond=True))) == 3
    assert noted == [1, 2, 0, 2, 3]


def test_a_rank_may_have_no_request() -> None:
    noted: list[int] = []
    empty: list[Block] = [[np.array([], np.int64)]] * 2
    assert len(list(read_ahead(iter(empty), SIZES, noted.append, beyond=True))) == 2
    assert noted == []
