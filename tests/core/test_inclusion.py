import numpy as np
import pytest

from corank.core import inclusion
from corank.core.inclusion import inclusion_probabilities, soften
from corank.core.types import Doubles


def frequencies(logits: Doubles, k: int, draws: int, seed: int = 0) -> Doubles:
    """How often each candidate is among k drawn by Gumbel top-k."""
    rng, counts, at_once = np.random.default_rng(seed), np.zeros(len(logits)), 50_000
    for _ in range(draws // at_once):
        noisy = logits + rng.gumbel(size=(at_once, len(logits)))
        chosen = np.argpartition(-noisy, k - 1, axis=1)[:, :k]
        counts += np.bincount(chosen.reshape(-1), minlength=len(logits))
    return counts / draws


@pytest.mark.parametrize(("n", "k", "spread"), [(8, 3, 1.0), (12, 1, 2.0), (10, 9, 3.0)])
def test_inclusion_probabilities_are_those_of_a_million_draws(n: int, k: int, spread: float) -> None:
    logits = np.random.default_rng(n).normal(size=n) * spread + 700
    exact = inclusion_probabilities(logits, k)
    assert exact.sum() == pytest.approx(k, abs=1e-8)
    error = np.sqrt(exact * (1 - exact) / 1_000_000)
    assert (np.abs(frequencies(logits, k, 1_000_000) - exact) < 5 * error + 1e-9).all()


def test_of_one_drawn_it_is_the_share_of_the_weight() -> None:
    logits = np.array([0.0, 30.0, -40.0, 29.0])
    weight = np.exp(logits)
    assert inclusion_probabilities(logits, 1) == pytest.approx(weight / weight.sum(), rel=1e-6)


def test_equal_weights_and_too_few_candidates_are_simple() -> None:
    assert inclusion_probabilities(np.full(40, 3.0), 10).tolist() == [0.25] * 40
    assert inclusion_probabilities(np.array([1.0, -900.0]), 2).tolist() == [1.0, 1.0]


def test_parts_of_the_sum_and_the_estimate_for_many_candidates_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(1).normal(size=400)
    exact = inclusion_probabilities(logits, 40)
    monkeypatch.setattr(inclusion, "MOST_NUMBERS", 400 * 40 * 3)
    assert inclusion_probabilities(logits, 40) == pytest.approx(exact, abs=1e-12)
    monkeypatch.setattr(inclusion, "MOST_EXACT", 399)
    assert inclusion_probabilities(logits, 40) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("temperature", [1e-310, 1e-12, 0.1, 1e12, 1e300])
def test_softened_logits_are_finite_at_any_temperature(temperature: float) -> None:
    values = np.array([0.5, 0.25, 3e38, 0.25, -3e38])
    logits = soften(values, temperature)
    assert np.isfinite(logits).all() and logits[1] == logits[3] and logits[2] == 0
    assert (np.argsort(-logits, kind="stable") == np.argsort(-values, kind="stable")).all()
    assert soften(np.array([0.3, 0.1]), 0.1) == pytest.approx([0.0, -2.0])


@pytest.mark.parametrize("n", [40, inclusion.MOST_EXACT + 1])
def test_weights_however_far_apart_are_drawn_in_their_order(n: int) -> None:
    """A temperature may be far below the differences of values."""
    order = np.arange(n, dtype=np.float64)
    for spread in (100.0, 1e6, 1e300):
        found = inclusion_probabilities(order * spread, 10)
        assert found == pytest.approx(np.where(order >= n - 10, 1.0, 0.0), abs=1e-6)
    twins = inclusion_probabilities(np.repeat(order * 1e6, 2), 3)
    assert twins[-4:] == pytest.approx([0.5, 0.5, 1, 1], abs=1e-6)
