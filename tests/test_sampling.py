import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corank.sampling import chosen, merge


def test_merge_takes_what_every_loss_needs() -> None:
    assert merge([{3: None}, {0: 10, 1: 5}, {0: 20, 3: 1}]) == {3: None, 0: 20, 1: 5}
    assert merge([{0: 4}, {0: None}]) == {0: None}


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12))
def test_a_cap_holds_in_every_request_and_takes_all_where_there_are_few(
    seed: int, cap: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    request_of = np.repeat(np.arange(20, dtype=np.int32), rng.integers(0, size + 1, 20))
    level = rng.integers(0, 3, len(request_of)).astype(np.uint8)
    keep = chosen({0: cap, 2: None}, request_of, level, rng)
    assert keep[level == 2].all()
    assert not keep[level == 1].any()
    there = np.bincount(request_of[level == 0], minlength=20)
    kept = np.bincount(request_of[(level == 0) & keep], minlength=20)
    assert (kept == np.minimum(there, cap)).all()


def test_the_seed_decides_and_every_candidate_has_its_chance() -> None:
    request_of, level = np.zeros(50, np.int32), np.zeros(50, np.uint8)
    draws = [chosen({0: 10}, request_of, level, np.random.default_rng(seed)) for seed in range(400)]
    assert (draws[7] == chosen({0: 10}, request_of, level, np.random.default_rng(7))).all()
    share = np.mean(draws, axis=0)
    assert abs(share - 0.2).max() < 0.09  # 4.5 standard errors
