"""What is drawn: batches and ranks of an epoch, and the sample of every loss, the beginning of one order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.batches.draws import STREAMS, Draws, Streams
from corank.batches.sampling import draw_order, select
from corank.core.errors import DistributedError
from corank.core.types import Hashes, Ints, Longs
from corank.distributed.ranks import Ranks

SHARDS = st.lists(st.integers(0, 90), min_size=1, max_size=6)


def drawn(streams: Streams, skip: int = 0, together: int = 4, epoch: int = 0, seed: int = 3) -> list[Longs]:
    return [batch for some in streams.read_drawn(Draws(seed, epoch), skip, together) for batch in some]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(SHARDS, st.sampled_from([1, 2, 7, 32, 33, 500]), st.integers(1, STREAMS))
def test_the_parts_of_all_ranks_are_the_batches_of_one(shards: list[int], size: int, world: int) -> None:
    whole = Streams(shards, size, Ranks())
    parts = [Streams(shards, size, Ranks(rank, world)) for rank in range(world)]
    for one, of_ranks in (
        (drawn(whole), [drawn(part) for part in parts]),
        (list(whole.read_ordered()), [list(part.read_ordered()) for part in parts]),
    ):
        assert {len(batches) for batches in of_ranks} == {len(one)}, "all ranks make the same steps"
        for n, batch in enumerate(one):
            assert np.concatenate([batches[n] for batches in of_ranks]).tolist() == batch.tolist()


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.sampled_from([1, 7, 32, 100]))
def test_an_epoch_has_every_request_once_in_full_batches(shards: list[int], size: int) -> None:
    streams = Streams(shards, size, Ranks())
    for batches in (drawn(streams), list(streams.read_ordered())):
        assert len(batches) == len(streams)
        assert np.sort(np.concatenate([[], *batches])).tolist() == list(range(sum(shards)))
        assert all(len(batch) == size for batch in batches[:-1])
        assert all((np.diff(batch) > 0).all() for batch in batches)


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.sampled_from([1, 7, 33]), st.integers(0, 40), st.integers(1, 9), st.sampled_from([1, 4]))
def test_an_epoch_goes_on_at_any_batch(
    shards: list[int], size: int, skip: int, together: int, world: int
) -> None:
    for rank in range(world):
        streams = Streams(shards, size, Ranks(rank, world))
        whole, rest = drawn(streams, together=10**6), drawn(streams, skip, together)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[skip:]]


def test_more_ranks_than_streams_are_refused() -> None:
    with pytest.raises(DistributedError, match=f"rank 2: 33 processes.*start at most {STREAMS} processes"):
        Streams([100], 8, Ranks(2, STREAMS + 1))


def hashes(count: int, seed: int = 0) -> Hashes:
    """A random number of each candidate."""
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def candidates(seed: int, requests: int = 20, most: int = 12) -> tuple[Ints, np.ndarray, Hashes]:
    """Request and level (0 to 2) of random candidates."""
    rng = np.random.default_rng(seed)
    request_of = np.repeat(np.arange(requests, dtype=np.int32), rng.integers(0, most + 1, requests))
    return request_of, rng.integers(0, 3, len(request_of)).astype(np.uint8), hashes(len(request_of), seed)


def test_every_order_of_a_group_is_equally_likely() -> None:
    # 6,000 groups of three, of two levels that lie between each other: 6 orders, 1,000 of each expected
    request_of = np.repeat(np.arange(3_000, dtype=np.int32), 6)
    level = np.tile(np.array([0, 7, 0, 7, 7, 0], np.uint8), 3_000)
    place = draw_order(request_of, level, hashes(len(level), 3)).reshape(3_000, 6)
    for positions in ([0, 2, 5], [1, 3, 4]):
        orders, counts = np.unique(place[:, positions], axis=0, return_counts=True)
        assert len(orders) == 6
        assert abs(counts - 500).max() < 90  # over 4 standard errors of sqrt(500 · 5/6)
    # and the two levels of a request are numbers apart
    same = (place[:, [0, 2, 5]] == place[:, [1, 3, 4]]).all(axis=1).mean()
    assert abs(same - 1 / 6) < 0.03


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_a_cap_holds_in_every_request_and_takes_all_where_there_are_few(seed: int, cap: int) -> None:
    request_of, level, numbers = candidates(seed)
    keep = select({0: cap, 2: None}, level, draw_order(request_of, level, numbers))
    assert keep[level == 2].all()
    assert not keep[level == 1].any()
    there = np.bincount(request_of[level == 0], minlength=20)
    kept = np.bincount(request_of[(level == 0) & keep], minlength=20)
    assert (kept == np.minimum(there, cap)).all()
