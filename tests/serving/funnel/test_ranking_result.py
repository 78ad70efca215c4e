import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.serving.funnel.ranking_result import best


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]), max_size=40), st.integers(1, 45))
def test_the_best_are_the_first_of_a_stable_order(scores: list[float], k: int) -> None:
    """Few distinct values: ties for the last place are the rule."""
    score = np.array(scores, dtype=np.float32)
    assert best(score, k).tolist() == np.argsort(-score, kind="stable")[:k].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_many_distinct(dtype: type[np.floating]) -> None:
    score = np.random.default_rng(0).normal(size=5000).astype(dtype)
    assert best(score, 100).tolist() == np.argsort(-score, kind="stable")[:100].tolist()
