import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from corank.core.errors import ConfigError
from corank.losses.settings.cascade import CascadeLoss
from corank.losses.total import TotalLoss
from tests.support.loss_cases import SCOPE, STAGES, bce, loss, neural_sort, output, outputs, requests, sigmoid
from tests.support.models import grad_of

FORMS = ["lcron", "arf", "arf_v2", "dftopk"]
SORTED = ("arf", "arf_v2")
LEARNT = {"prerank": 0.7, "rank": -0.4, "rerank": 0.2}
"""log σ² by stage."""
KEEP = {"prerank": 3, "rank": 2, "rerank": 1}
LEVEL = [0, 2, 1, 0, 2]
Z = {
    "prerank": [0.5, -1.0, 2.0, 0.1, 0.7],
    "rank": [0.2, 0.4, -0.3, 1.0, 0.6],
    "rerank": [-0.2, 0.9, 0.3, 0.0, 0.8],
}
Z_FOUR = {"prerank": [0.3, 0.1, -0.2, 0.6], "rank": [0.4, 0.9, 0.2, -0.5], "rerank": [0.6, -0.1, 0.4, 0.2]}


def cascade(form: str, **settings: Any) -> CascadeLoss:
    return CascadeLoss(**{"kind": "cascade", "form": form, "positive": ["exposed"]} | settings)


def survival(form: str, z: list[float], keep: int, temperature: float) -> list[float]:
    if form == "dftopk":
        ranked = sorted(z, reverse=True)
        return [sigmoid((x - (ranked[keep - 1] + ranked[keep]) / 2) / temperature) for x in z]
    p = neural_sort(z, temperature)
    n = range(len(z))
    return [sum(p[t][i] for t in range(keep)) / sum(p[t][i] for t in n) for i in n]


def by_hand(
    form: str,
    z: dict[str, list[float]],
    level: list[int],
    stages: Sequence[str],
    temperature: float,
    learnt: bool = False,
) -> float:
    """Of one request; a stage that keeps all lets all survive. With the weights of `LEARNT`, or fixed ones."""
    n = len(level)
    true = [1 if one == 2 else 0 for one in level]
    product, total = [1.0] * n, 0.0
    for stage in stages:
        if n <= KEEP[stage]:
            continue
        sigma = math.exp(LEARNT[stage] / 2)
        if form in SORTED:
            p = neural_sort(z[stage], temperature)
            kept = [math.log(sum(p[t][i] for t in range(KEEP[stage])) / KEEP[stage]) for i in range(n)]
            if form == "arf":
                total -= sum(k * y for k, y in zip(kept, true, strict=True)) / (n if learnt else sum(true))
            else:
                total += missed(survival("lcron", z[stage], KEEP[stage], temperature), true)
            order = sorted(range(n), key=lambda i: (-level[i], -z[stage][i]))
            whole = -sum(math.log(p[t][i]) for t, i in enumerate(order)) / n
            total += whole / n / (2 * sigma**2) + math.log(sigma) if learnt else whole
            continue
        survivals = survival(form, z[stage], KEEP[stage], temperature)
        product = [a * b for a, b in zip(product, survivals, strict=True)]
        own = missed(survivals, true)
        total += own / (2 * sigma**2) + math.log(sigma) if learnt else own * (0.5 if form == "lcron" else 1)
    return total if form in SORTED else total + missed(product, true)


def missed(p: list[float], true: list[int]) -> float:
    return sum(bce(q, y) for q, y in zip(p, true, strict=True)) / len(true)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stages", [STAGES, STAGES[:2], STAGES[:1]])
def test_the_loss_is_that_of_the_formula(form: str, stages: Sequence[str]) -> None:
    z = outputs(**Z)
    value = loss(cascade(form, stages=list(stages), temperature=1.3), z, requests([LEVEL]))
    assert value == pytest.approx(by_hand(form, Z, LEVEL, stages, 1.3), rel=1e-4)
    for stage in STAGES:
        assert (z[stage].logits["click"].grad is not None) == (stage in stages)


@pytest.mark.parametrize("form", FORMS)
def test_requests_of_all_lengths_each_by_itself_weighted_by_the_log(form: str) -> None:
    """Of five, four and three candidates; then two, one and none, and five without a positive."""
    three = {stage: z[:3] for stage, z in Z_FOUR.items()}
    levels = [LEVEL, [2, 0, 1, 0], [0, 2, 1], [2, 1], [2], [], [0, 1, 1, 0, 0]]
    weights = [1.0] * 5 + [2.0] * 4 + [1.0, 2, 3] + [8.0] * 8
    z = outputs(**{s: Z[s] + Z_FOUR[s] + three[s] + [0.5, 0.2] + [0.4] + Z[s] for s in STAGES})
    expected = [
        by_hand(form, Z, levels[0], STAGES, 1.0),
        by_hand(form, Z_FOUR, levels[1], STAGES, 1.0),
        by_hand(form, three, levels[2], STAGES, 1.0),
        by_hand(form, {stage: [0.5, 0.2] for stage in STAGES}, levels[3], STAGES, 1.0),
    ]
    total = expected[0] + 2 * expected[1] + 2 * expected[2] + 8 * expected[3]
    assert loss(cascade(form), z, requests(levels, weights)) == pytest.approx(total / 13, rel=1e-4)
    assert not grad_of(z["prerank"].logits["click"])[9:].any(), "three candidates all pass a quota of three"
    assert (
        grad_of(z["rank"].logits["click"])[9:12].any() and not grad_of(z["rank"].logits["click"])[12:].any()
    )
    assert (
        grad_of(z["rerank"].logits["click"])[12:14].any()
        and not grad_of(z["rerank"].logits["click"])[14:].any()
    )


@pytest.mark.parametrize("form", ["lcron", "arf", "arf_v2"])
def test_learnt_weights_are_those_of_an_uncertainty(form: str) -> None:
    """Of two requests, of which a stage cuts one: there its weight has no gradient, as no part is weighed."""
    learning = cascade(form, temperature=1.3, weights="learnt")
    two = {stage: values[:2] for stage, values in Z.items()}
    log_variances = {stage: torch.tensor(value, requires_grad=True) for stage, value in LEARNT.items()}
    z = {
        stage: replace(stage_output, log_variances={learning.name: log_variances[stage]})
        for stage, stage_output in outputs(**{stage: Z[stage] + two[stage] for stage in STAGES}).items()
    }
    mean = loss(learning, z, requests([LEVEL, [2, 0]]))
    of_requests = [by_hand(form, z, level, STAGES, 1.3, True) for z, level in ((Z, LEVEL), (two, [2, 0]))]
    assert mean == pytest.approx(sum(of_requests) / 2, rel=1e-4)
    part = {
        stage: (grad_of(log_variances[stage]).item() - 0.5 * share) / -0.5 * math.exp(LEARNT[stage])
        for stage, share in (("prerank", 0.5), ("rank", 0.5), ("rerank", 1.0))
    }
    assert all(value > 0 for value in part.values()), (
        "what is weighed, from the gradient −L / (2 σ²) + ½ of log σ²"
    )
    assert learning.learnt_weights(SCOPE) == list(STAGES) and not cascade(form).learnt_weights(SCOPE)


@pytest.mark.parametrize("form", ["dftopk", "icc"])
def test_forms_without_weights_of_parts_learn_none(form: str) -> None:
    with pytest.raises(
        ValidationError, match=r"weights: only lcron, arf, arf_v2 learn theirs.*received form"
    ):
        cascade(form, weights="learnt")


def test_two_losses_of_one_name_may_not_learn_weights() -> None:
    learning = [cascade("arf", weights="learnt"), cascade("arf", weights="learnt", on=["cut", "exposed"])]
    with pytest.raises(ConfigError, match=r"losses\.1\.weights: an earlier 'cascade\.arf' learns weights"):
        TotalLoss(learning, SCOPE).check()
    TotalLoss([learning[0], cascade("lcron", weights="learnt"), cascade("arf")], SCOPE).check()


def dense_lcron(z: dict[str, torch.Tensor], true: torch.Tensor, temperature: float) -> torch.Tensor:
    """The formula of LCRON on one request, with all of P̂ in memory."""
    total, kept, not_cut = torch.tensor(0.0), torch.ones(len(true)), torch.ones(len(true))
    for stage, logits in z.items():
        s, n = logits / temperature, len(logits)
        slope = n - 1.0 - 2 * torch.arange(n)
        p = (slope.unsqueeze(1) * s - (s.unsqueeze(0) - s.unsqueeze(1)).abs().sum(1)).softmax(1)
        raw = p.sum(0).detach()
        up, down = p[: KEEP[stage]].sum(0) / raw, p[KEEP[stage] :].sum(0) / raw
        total = total - 0.5 * torch.where(true, up.log(), down.log()).mean()
        kept, not_cut = kept * up, not_cut * (1 - down)
    return total - torch.where(true, kept.log(), (1 - not_cut).log()).mean()


def test_what_should_be_cut_learns_from_the_mass_of_lower_ranks() -> None:
    z = outputs(**Z)
    loss(cascade("lcron", temperature=1.3), z, requests([LEVEL]))
    dense = {stage: torch.tensor(values, requires_grad=True) for stage, values in Z.items()}
    dense_lcron(dense, torch.tensor(LEVEL) == 2, 1.3).backward()
    for stage in STAGES:
        assert torch.allclose(grad_of(z[stage].logits["click"]), grad_of(dense[stage]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_only_levels_on_compete_and_no_more_than_were_drawn(form: str) -> None:
    z = outputs(**{stage: [*values, 2.2, -1.4] for stage, values in Z.items()})
    made = replace(
        requests([[0, 2, 1, 0, 2, 0, 1]]), draw_order=torch.tensor([0, 1, 0, 1, 0, 2, 1], dtype=torch.int32)
    )
    on = [0, 1, 3, 4, 5]
    picked = {stage: [[*values, 2.2, -1.4][i] for i in on] for stage, values in Z.items()}
    value = loss(cascade(form, on=["cut", "exposed"], temperature=3.0), z, made)
    assert value == pytest.approx(by_hand(form, picked, [0, 2, 0, 2, 0], STAGES, 3.0), rel=1e-4)
    value = loss(cascade(form, on=["cut", "exposed"], temperature=3.0, per_request=2), z, made)
    picked = {stage: z[:-1] for stage, z in picked.items()}
    assert value == pytest.approx(by_hand(form, picked, [0, 2, 0, 2], STAGES, 3.0), rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [[[], []], [[2], [0]], [[0, 0, 1, 1, 0]]])
def test_with_nothing_to_cut_or_to_keep_the_loss_is_zero_and_so_are_its_gradients(
    form: str, given: list[list[int]]
) -> None:
    z = outputs(**dict.fromkeys(STAGES, [0.5] * sum(map(len, given))))
    assert loss(cascade(form), z, requests(given)) == 0
    assert not any(grad_of(z[stage].logits["click"]).any() for stage in STAGES)


@pytest.mark.parametrize("form", FORMS)
def test_far_off_scores_still_pull_the_right_way(form: str) -> None:
    z = outputs(**{stage: [-8.0, 1.0, 2.0, 3.0, 8.0] for stage in STAGES})
    assert math.isfinite(loss(cascade(form), z, requests([[2, 0, 0, 0, 0]])))
    for stage in STAGES:
        gradient = grad_of(z[stage].logits["click"])
        assert gradient.isfinite().all() and gradient[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_descent_brings_the_true_top_through(form: str) -> None:
    torch.manual_seed(0)
    made = requests([[2, 0, 2, 0, 1, 0, 0, 0]] * 3)
    z = {stage: output(torch.randn(24)) for stage in STAGES}
    optimiser = torch.optim.Adam([z[stage].logits["click"] for stage in STAGES], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        loss(cascade(form), z, made, replace(SCOPE, keep=dict.fromkeys(STAGES, 2)))
        optimiser.step()
    for stage in STAGES:
        best = z[stage].logits["click"].view(3, 8).topk(2).indices.sort(1).values
        assert best.tolist() == [[0, 2]] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ["prerank", "recall"]}, r"losses\.0\.stages: no stage 'recall'"),
        ({"on": ["cut", "gone", "exposed"]}, r"losses\.0\.on: no level 'gone'"),
        ({"positive": ["cut", "kept", "exposed"]}, r"losses\.0\.positive: every candidate would be one"),
    ],
)
def test_what_there_is_not_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cascade("lcron", **settings).check(SCOPE, "losses.0")


def test_positives_must_compete() -> None:
    with pytest.raises(ValidationError, match="positive must be among on"):
        cascade("lcron", on=["cut", "kept"])


def test_all_stages_are_read_unless_some_are_named() -> None:
    assert cascade("lcron").reads(SCOPE) == list(STAGES)
    assert cascade("lcron", stages=["rank"]).reads(SCOPE) == ["rank"]


@pytest.mark.parametrize("form", FORMS)
def test_top_takes_the_place_of_every_quota(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = loss(cascade(form, top=2), outputs(**Z), requests([LEVEL]))
    assert value != pytest.approx(by_hand(form, Z, LEVEL, STAGES, 1.0), rel=1e-5)
    monkeypatch.setattr("tests.losses.test_cascade.KEEP", dict.fromkeys(KEEP, 2))
    assert value == pytest.approx(by_hand(form, Z, LEVEL, STAGES, 1.0), rel=1e-4)
