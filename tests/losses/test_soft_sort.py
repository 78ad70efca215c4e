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
    relaxed = NeuralSort.of(scores, mask, 0.7, keep)
    top, (kept, cut) = relaxed.top(), relaxed.survival()
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
    likelihood = NeuralSort.of(scores, mask, 0.7, 2).likelihood(relevance)
    for r, order in enumerate([[1, 3, 0, 4, 2], [1, 2, 0], [0], []]):
        p = neural_sort(SCORES[r][: SIZES[r]], 0.7)
        expected = [np.log(p[t][i]) for t, i in enumerate(order)] + [0.0] * (5 - SIZES[r])
        assert likelihood[r].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.usefixtures("block")
def test_gradients_are_those_of_the_formula() -> None:
    scores, mask = lists()
    relevance = torch.tensor([[1.0, 2, 0, 1, 1], [0.0, 1, 1, 0, 0], [0.0] * 5, [0.0] * 5])
    for run in (
        lambda s: NeuralSort.of(s, mask, 0.7, 2).top(),
        lambda s: NeuralSort.of(s, mask, 0.7, 2).likelihood(relevance),
        lambda s: NeuralSort.of(s, mask, 0.7, 2)._sums()[1],
        lambda s: threshold(s, mask, 2),
    ):
        assert torch.autograd.gradcheck(run, scores)


def whole(scores: torch.Tensor, size: int, keep: int, order: list[int]) -> list[torch.Tensor]:
    """The same sums of one list by the formula: log of the rows up to `keep`, of the others, and of an order."""
    s, row = scores[:size], torch.arange(1, size + 1).unsqueeze(1)
    spread = (s.unsqueeze(1) - s).abs().sum(1)
    log = ((size + 1 - 2 * row) * s - spread).log_softmax(1)
    below = log[keep:].logsumexp(0) if size > keep else torch.full((size,), -FAR, dtype=s.dtype)
    return [log[:keep].logsumexp(0), below, log[torch.arange(size), order]]


@pytest.mark.parametrize("n", [1, 3, 8, 50, 90])
@pytest.mark.parametrize("width", [0.5, 5.0, 40.0, 1000.0], ids="width {}".format)
def test_sums_and_gradients_in_single_precision_are_those_of_the_formula_in_double(
    n: int, width: float
) -> None:
    generator = torch.Generator().manual_seed(n)
    size, keep = torch.tensor([n, n, (n + 1) // 2, 1]), 2 + n // 5
    scores = (torch.rand(4, n, generator=generator) * width).requires_grad_()
    relevance = torch.randint(0, 3, (4, n), generator=generator).float()
    relaxed = NeuralSort.of(scores, torch.arange(n) < size.unsqueeze(1), 1.0, keep)
    ours = [*relaxed._sums(), relaxed.likelihood(relevance)]
    exact = scores.detach().double().requires_grad_()
    for r, many in enumerate(size.tolist()):
        by_score = exact[r, :many].argsort(descending=True, stable=True)
        order = by_score[relevance[r, by_score].argsort(descending=True, stable=True)].tolist()
        expected = whole(exact[r], many, keep, order)
        expected = [one[by_score] for one in expected[:2]] + expected[2:]
        for one, other in zip(ours, expected, strict=True):
            digits = 1e-6 * max(10.0, n * width)  # of the logits, whose differences are taken
            assert torch.allclose(one[r, :many].double(), other, rtol=1e-5, atol=digits)
            weight = torch.randn(many, generator=generator) * (other.detach() > -FAR)
            (slope,) = torch.autograd.grad((one[r, :many] * weight).sum(), scores, retain_graph=True)
            if other.requires_grad:
                (expected_slope,) = torch.autograd.grad((other * weight).sum(), exact, retain_graph=True)
                largest = expected_slope.abs().max().clamp_min(1e-3)
                assert (slope.double() - expected_slope).abs().max() < 1e-4 * largest


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), st.integers(1, 12))
def test_any_scores_give_probabilities_and_finite_gradients(found: list[float], keep: int) -> None:
    scores = torch.tensor([found], requires_grad=True)
    survival = NeuralSort.of(scores, torch.ones_like(scores, dtype=torch.bool), 0.1, keep).survival()
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
