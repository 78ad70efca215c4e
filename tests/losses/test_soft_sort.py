import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corank.losses import soft_sort as relaxation
from corank.losses.padded import FAR, falling_order
from corank.losses.soft_sort import NeuralSort, threshold
from tests.support.loss_cases import neural_sort

SCORES = [[0.3, -1.2, 2.0, 0.7, 0.1], [1.5, 0.2, -0.4, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0, 0.0], [0.0] * 5]
SIZES = [5, 3, 1, 0]


def lists(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(5) < torch.tensor(SIZES).unsqueeze(1)
    return torch.tensor(SCORES, dtype=dtype, requires_grad=True), mask


@pytest.fixture(params=[1 << 20, 40, 1], ids=["whole", "some", "each"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_sums_of_the_relaxed_permutation_are_those_of_the_formula(keep: int) -> None:
    scores, mask = lists()
    relaxed = NeuralSort.of(scores, mask, 0.7)
    top, (kept, cut) = relaxed.top(keep), relaxed.survival(keep)
    for r, size in enumerate(SIZES):
        p = neural_sort(SCORES[r][:size], 0.7)
        for i in range(size):
            column = [p[t][i] for t in range(size)]
            assert top[r, i].item() == pytest.approx(np.log(sum(column[:keep])), abs=1e-9)
            assert kept[r, i].item() == pytest.approx(np.log(sum(column[:keep]) / sum(column)), abs=1e-9)
            below = sum(column[keep:]) / sum(column)
            assert cut[r, i].item() == (pytest.approx(np.log(below), abs=1e-9) if below else -FAR)
        assert not top[r, size:].any()


@pytest.mark.usefixtures("block")
def test_likelihood_reads_the_places_that_relevance_asks_for_and_leaves_ties_as_they_stand() -> None:
    scores, mask = lists()
    relevance = torch.tensor([[1.0, 2, 0, 1, 1], [0.0, 1, 1, 9, 9], [0.0] * 5, [0.0] * 5])
    likelihood = NeuralSort.of(scores, mask, 0.7).likelihood(relevance)
    for r, order in enumerate([[1, 3, 0, 4, 2], [1, 2, 0], [0], []]):
        p = neural_sort(SCORES[r][: SIZES[r]], 0.7)
        expected = [np.log(p[t][i]) for t, i in enumerate(order)] + [0.0] * (5 - SIZES[r])
        assert likelihood[r].tolist() == pytest.approx(expected, rel=1e-9)


def sorted_lists(scores: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, relaxation.Lists]:
    relaxed = NeuralSort.of(scores, mask, 0.7)
    return relaxed.scores, relaxed.lists


@pytest.mark.usefixtures("block")
def test_gradients_are_those_of_the_formula() -> None:
    scores, mask = lists()
    relevance = torch.tensor([[1.0, 2, 0, 1, 1], [0.0, 1, 1, 0, 0], [0.0] * 5, [0.0] * 5])
    for run in (
        lambda s: NeuralSort.of(s, mask, 0.7).top(2),
        lambda s: NeuralSort.of(s, mask, 0.7).likelihood(relevance),
        lambda s: relaxation._below(*sorted_lists(s, mask), 2),
        lambda s: threshold(s, mask, 2),
    ):
        assert torch.autograd.gradcheck(run, scores)


def test_the_normaliser_has_no_gradient() -> None:
    scores, mask = lists()
    relaxed = NeuralSort.of(scores, mask, 1.0)
    weight = torch.randn(4, 5, dtype=torch.float64)
    (ours,) = torch.autograd.grad((relaxed.survival(2)[0] * weight).sum(), scores, retain_graph=True)
    (plain,) = torch.autograd.grad((relaxed.top(2) * weight).sum(), scores)
    assert torch.allclose(ours, plain, rtol=1e-9)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), st.integers(1, 12))
def test_any_scores_give_probabilities_and_finite_gradients(found: list[float], keep: int) -> None:
    scores = torch.tensor([found], requires_grad=True)
    survival = NeuralSort.of(scores, torch.ones_like(scores, dtype=torch.bool), 0.1).survival(keep)
    sum(survival, torch.zeros(())).sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    for one in survival:
        assert one.isfinite().all() and (one <= 1e-5).all()


def test_falling_order_is_that_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 30, generator=generator)
    scores[:10] = torch.randint(-2, 3, (10, 30), generator=generator).float()  # many are equal
    scores[10:20] *= 1e-40  # subnormal
    scores[20:30, ::3] = -0.0
    scores[20:30, 1::3] = 0.0
    scores[:, 25:] = -torch.inf
    scores[3, 4] = torch.inf
    expected = scores.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(falling_order(scores), expected)
    assert torch.equal(falling_order(scores.double()), expected)
    assert falling_order(scores[:, :0]).shape == (40, 0)
