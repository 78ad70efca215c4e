"""Streams: batches do not depend on the number of ranks, on how many are gathered at a time or on where one resumes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.batches.draws import STREAMS, Draws, Streams, cut
from corank.core.errors import DistributedError
from corank.core.types import Longs
from corank.distributed.ranks import Ranks

SHARDS = st.lists(st.integers(0, 90), min_size=1, max_size=6)


def drawn(streams: Streams, skip: int = 0, together: int = 4, epoch: int = 0, seed: int = 3) -> list[Longs]:
    return [batch for some in streams.read_drawn(Draws(seed, epoch), skip, together) for batch in some]


@given(st.integers(0, 2**40))
def test_the_parts_of_a_number_sum_to_it_and_differ_by_one(requests: int) -> None:
    parts = cut(requests)
    assert len(parts) == STREAMS
    assert parts.sum() == requests
    assert parts.max() - parts.min() <= 1


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


def test_the_seed_and_the_epoch_decide() -> None:
    streams = Streams([700, 300], 64, Ranks())
    first, again = drawn(streams), drawn(streams)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (drawn(streams, epoch=1), drawn(streams, seed=4)):
        assert not any((a == b).all() for a, b in zip(first[:-1], other[:-1], strict=True))


@pytest.mark.slow
def test_requests_are_mixed_within_a_piece_and_pieces_among_one_another() -> None:
    # a stream has 1,000 requests in four pieces: of which pieces are those of the first batch?
    streams = Streams([250] * 4 * STREAMS, STREAMS, Ranks())
    pieces = np.concatenate([drawn(streams, epoch=epoch, together=1)[0] % 1000 // 250 for epoch in range(20)])
    counts = np.bincount(pieces, minlength=4)
    assert abs(counts - 160).max() < 4.5 * (640 * 3 / 16) ** 0.5
    # a piece is read to its end, in no order of the log
    stream = np.concatenate([batch[:1] for batch in drawn(streams)])
    assert [len(set(stream[n : n + 250] // 250)) for n in range(0, 1000, 250)] == [1, 1, 1, 1]
    assert abs(np.corrcoef(stream[:250], np.arange(250))[0, 1]) < 0.25


def test_more_ranks_than_streams_are_refused() -> None:
    with pytest.raises(DistributedError, match=f"rank 2: 33 processes.*start at most {STREAMS} processes"):
        Streams([100], 8, Ranks(2, STREAMS + 1))
