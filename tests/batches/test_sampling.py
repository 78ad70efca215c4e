"""Drawn places: the sample of every loss is the beginning of one order, which the seed decides."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corank.batches.sampling import draw_order, merge, select
from corank.core.types import Hashes, Ints


def hashes(count: int, seed: int = 0) -> Hashes:
    """A random number of each candidate."""
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def candidates(seed: int, requests: int = 20, most: int = 12) -> tuple[Ints, np.ndarray, Hashes]:
    """Request and level (0 to 2) of random candidates."""
    rng = np.random.default_rng(seed)
    request_of = np.repeat(np.arange(requests, dtype=np.int32), rng.integers(0, most + 1, requests))
    return request_of, rng.integers(0, 3, len(request_of)).astype(np.uint8), hashes(len(request_of), seed)


def test_merge_takes_what_every_loss_needs() -> None:
    assert merge([{3: None}, {0: 10, 1: 5}, {0: 20, 3: 1}]) == {3: None, 0: 20, 1: 5}
    assert merge([{0: 4}, {0: None}]) == {0: None}


@given(st.integers(0, 10_000))
def test_places_are_a_permutation_within_each_request_and_level(seed: int) -> None:
    request_of, level, drawn = candidates(seed)
    place = draw_order(request_of, level, drawn)
    for request in range(20):
        for code in range(3):
            group = place[(request_of == request) & (level == code)]
            assert sorted(group.tolist()) == list(range(len(group)))


def test_nobody_is_drawn_from_nobody() -> None:
    nothing = np.empty(0, dtype=np.int32)
    assert len(draw_order(nothing, nothing.astype(np.uint8), hashes(0))) == 0


def test_requests_up_to_the_most_a_batch_may_have_keep_apart() -> None:
    request_of = np.repeat(np.array([0, 255, 256, 65_535], dtype=np.int32), 3)
    place = draw_order(request_of, np.full(12, 255, np.uint8), hashes(12))
    assert np.sort(place.reshape(4, 3), axis=1).tolist() == [[0, 1, 2]] * 4


def test_every_order_of_a_group_is_equally_likely() -> None:
    # 6,000 groups of three, of two levels that lie between each other: 6 orders, 1,000 of each expected
    request_of = np.repeat(np.arange(3_000, dtype=np.int32), 6)
    level = np.tile(np.array([0, 7, 0, 7, 7, 0], np.uint8), 3_000)
    place = draw_order(request_of, level, hashes(len(level), 3)).reshape(3_000, 6)
    for positions in ([0, 2, 5], [1, 3, 4]):
        orders, counts = np.unique(place[:, positions], axis=0, return_counts=True)
        assert len(orders) == 6
        assert abs(counts - 500).max() < 90  # over 4 standard errors of sqrt(500 · 5/6)
    # and the two levels of a request are drawn apart
    same = (place[:, [0, 2, 5]] == place[:, [1, 3, 4]]).all(axis=1).mean()
    assert abs(same - 1 / 6) < 0.03


def test_the_seed_decides() -> None:
    request_of, level, _ = candidates(1)
    one, again, other = (draw_order(request_of, level, hashes(len(level), seed)) for seed in (7, 7, 8))
    assert (one == again).all()
    assert (one != other).any()


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_a_cap_holds_in_every_request_and_takes_all_where_there_are_few(seed: int, cap: int) -> None:
    request_of, level, drawn = candidates(seed)
    keep = select({0: cap, 2: None}, level, draw_order(request_of, level, drawn))
    assert keep[level == 2].all()
    assert not keep[level == 1].any()
    there = np.bincount(request_of[level == 0], minlength=20)
    kept = np.bincount(request_of[(level == 0) & keep], minlength=20)
    assert (kept == np.minimum(there, cap)).all()


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 5))
def test_a_smaller_sample_is_part_of_a_larger_one(seed: int, few: int, more: int) -> None:
    request_of, level, drawn = candidates(seed)
    place = draw_order(request_of, level, drawn)
    small, large = select({0: few}, level, place), select({0: few + more}, level, place)
    assert not (small & ~large).any()


def test_every_candidate_has_its_chance() -> None:
    request_of, level = np.zeros(50, np.int32), np.zeros(50, np.uint8)
    draws = [
        select({0: 10}, level, draw_order(request_of, level, hashes(len(level), seed))) for seed in range(400)
    ]
    assert abs(np.mean(draws, axis=0) - 0.2).max() < 0.09  # 4.5 standard errors
