import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from corank.batches.sampling import BATCH, CATALOGUE
from corank.core.errors import ConfigError
from corank.losses.distill import DistillLoss, draw_chunks, draw_shares
from corank.testing.losses import SCOPE, loss, outputs, requests
from tests.support.loss_cases import bce, gradient_of, log_softmax, sigmoid, softplus

ALL = ["cut", "kept", "exposed"]


def distill(form: str, **settings: Any) -> DistillLoss:
    return DistillLoss(
        **{"kind": "distill", "teacher": "rank", "student": "prerank", "form": form, "on": ALL} | settings
    )


def kl(teacher: list[float], student: list[float]) -> float:
    return sum(math.exp(p) * (p - q) for p, q in zip(log_softmax(teacher), log_softmax(student), strict=True))


def test_listwise_is_the_divergence_of_each_request_weighted_by_the_log() -> None:
    made = requests([[2, 1, 0], [], [2], [0, 0]], weights=[1.0, 2, 3, 9, 5, 3])
    z = outputs(prerank=[0.5, -1, 2, 7, 0.3, 0.1], rank=[1.0, 0, -2, 7, -1, 1])
    first, last = kl([0.5, 0, -1], [0.25, -0.5, 1]), kl([-0.5, 0.5], [0.15, 0.05])
    value = loss(distill("listwise", temperature=2.0), z, made)
    assert value == pytest.approx((2 * first + 4 * last) / 6, rel=1e-5)
    assert z["rank"].logits["click"].grad is None
    assert gradient_of(z)[3] == 0 and gradient_of(z)[[0, 1, 2, 4, 5]].all()


@pytest.mark.parametrize("form", ["pointwise", "listwise"])
def test_the_teacher_teaches_on_its_levels_and_on_no_more_than_were_drawn(form: str) -> None:
    made = replace(requests([[2, 1, 0, 2, 2]]), draw_order=torch.tensor([1, 0, 0, 0, 2], dtype=torch.int32))
    z = outputs(prerank=[0.5, 9, 9, -1.0, 3.0], rank=[1.0, 9, -9, 0.0, 2.0])
    value = loss(distill(form, on=["exposed"], per_request=2), z, made)
    pointwise = (bce(sigmoid(0.5), sigmoid(1)) + bce(sigmoid(-1), sigmoid(0))) / 2
    assert value == pytest.approx(pointwise if form == "pointwise" else kl([1, 0], [0.5, -1]), rel=1e-5)
    assert z["rank"].logits["click"].grad is None and not gradient_of(z)[[1, 2, 4]].any()


@pytest.mark.parametrize("form", ["pointwise", "listwise"])
def test_candidates_drawn_beyond_the_log_are_taught(form: str) -> None:
    made = requests([[2, CATALOGUE, BATCH, CATALOGUE], [CATALOGUE, 0]])
    made = replace(made, draw_order=torch.tensor([0, 1, 0, 0, 0, 0], dtype=torch.int32))
    z = outputs(prerank=[9, 0.5, 9, -1, 0.3, 9], rank=[9.0, 1, 9, -2, 0, 9])
    value = loss(distill(form, on=["catalogue"], per_request=2), z, made)
    each = [bce(sigmoid(a), sigmoid(b)) for a, b in ((0.5, 1), (-1, -2), (0.3, 0))]
    assert value == pytest.approx(sum(each) / 3 if form == "pointwise" else kl([1, -2], [0.5, -1]), rel=1e-5)
    assert not gradient_of(z)[[0, 2, 5]].any()


@pytest.mark.parametrize("form", ["listwise", "pairwise"])
def test_a_logged_score_teaches_where_it_is_known(form: str) -> None:
    made = requests([[2, 1, 0], [2, 0]])
    scores = torch.tensor([1.0, math.nan, -1, math.nan, 2])
    z = outputs(prerank=[0.5, 7, 2, 7, 7])
    value = loss(distill(form, teacher="production"), z, replace(made, scores={"production": scores}))
    expected = kl([1, -1], [0.5, 2]) if form == "listwise" else softplus(2 - 0.5)
    assert value == pytest.approx(expected, rel=1e-5)
    assert not gradient_of(z)[[1, 3, 4]].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on": ["batch"]}, "losses.0.per_request: required, as 'batch' has no end"),
        (
            {"on": ["catalogue"], "per_request": 3, "teacher": "rerank"},
            "'catalogue' is beyond the log, where nobody knows what 'rerank' reads of pair, served",
        ),
    ],
)
def test_who_cannot_score_drawn_candidates_does_not_teach_on_them(
    wrong: dict[str, Any], message: str
) -> None:
    scope = replace(SCOPE, logged_inputs={"rerank": ["pair", "served"]})
    distill("pointwise", teacher="rerank").check(scope, "losses.0")
    with pytest.raises(ConfigError, match=message):
        distill("pointwise", **wrong).check(scope, "losses.0")


def test_pairwise_of_a_short_list_is_all_pairs_weighted_by_the_lost_gain() -> None:
    student, teacher = [0.5, -1.0, 2.0, 0.1], [0.0, 3.0, -1.0, 1.0]
    order = [1, 3, 0, 2]
    total = weights = 0.0
    for a in range(4):
        for b in range(a + 1, 4):
            weight = (b - a) * (1 / math.log2(a + 2) - 1 / math.log2(b + 2))
            total += weight * softplus((student[order[b]] - student[order[a]]) / 2)
            weights += weight
    z = outputs(prerank=student, rank=teacher)
    value = loss(distill("pairwise", temperature=2.0), z, requests([[2, 1, 0, 0]]))
    assert value == pytest.approx(total / weights, rel=1e-5)
    assert z["rank"].logits["click"].grad is None
    with pytest.raises(ValidationError, match="chunks"):
        distill("pairwise", chunks=1)


def test_each_chunk_of_the_teachers_order_gives_one_candidate() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(400, 11)
    size = torch.arange(400) % 12
    mask = torch.arange(11) < size.unsqueeze(1)
    place, drawn = draw_chunks(teacher, mask, 4, draw_shares(torch.arange(400), 4))
    assert torch.equal(drawn.sum(1), size.clamp_max(4))
    ranked = teacher.masked_fill(~mask, -torch.inf).argsort(1, descending=True).argsort(1).gather(1, place)
    for r in range(400):
        n, parts = int(size[r]), min(4, int(size[r]))
        for a in range(parts):
            assert a * n // parts <= ranked[r, a] < (a + 1) * n // parts
        assert len(set(ranked[r, :parts].tolist())) == parts
    eight = ranked[size == 8]
    assert all(len(set(eight[:, a].tolist())) == 2 for a in range(4)), "both of a chunk are drawn at times"
