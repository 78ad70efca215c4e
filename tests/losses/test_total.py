import math
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.core.registry import by_name
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.distill import DistillLoss
from corank.losses.settings.levels import LevelsLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput
from tests.support.encoded_batches import LAYOUT, batch, random_batch, rows
from tests.support.loss_cases import outputs

SCOPE = FunnelSpec(["cut", "kept", "exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]})


def hand_made(level: list[int], click: list[int]) -> Batch:
    n = len(level)
    sides = rows(np.random.default_rng(0), n, n, n)
    each = np.arange(n)
    return batch(sides, each, each, np.array(level), np.array(click))


def bce(z: float, y: float) -> float:
    p = 1 / (1 + math.exp(-z))
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def value(term: Loss, z: dict[str, StageOutput], made: Batch, step: int = 1) -> float:
    return TotalLoss([term], SCOPE)(z, made, step)[1][term.name].item()


def test_click_is_the_mean_over_exposed_candidates_with_a_known_label() -> None:
    made = hand_made([2, 2, 2, 1, 0], [1, 0, -1, -1, -1])
    z = outputs(prerank=[0.5, -1.0, 9.0, 9.0, 9.0], rank=[0] * 5)
    mean = value(ClickLoss(kind="click", stage="prerank"), z, made)
    assert mean == pytest.approx((bce(0.5, 1) + bce(-1.0, 0)) / 2, rel=1e-6)


def test_click_is_weighted_by_the_log() -> None:
    made = hand_made([2, 2], [1, 0])
    made.weight[:] = torch.tensor([3.0, 1.0])
    z = outputs(prerank=[0.5, -1.0], rank=[0, 0])
    mean = value(ClickLoss(kind="click", stage="prerank"), z, made)
    assert mean == pytest.approx((3 * bce(0.5, 1) + bce(-1.0, 0)) / 4, rel=1e-6)


def test_unexposed_pushes_cut_candidates_down() -> None:
    made = hand_made([0, 0, 1, 2], [-1, -1, -1, 1])
    z = outputs(prerank=[0.3, -0.7, 5.0, 5.0], rank=[0] * 4)
    term = UnexposedLoss(kind="unexposed", stage="prerank", **{"from": ["cut"]})
    assert value(term, z, made) == pytest.approx((bce(0.3, 0) + bce(-0.7, 0)) / 2, rel=1e-6)
    TotalLoss([term], SCOPE)(z, made, 1)[0].backward()
    gradient = z["prerank"].logits["click"].grad
    assert gradient is not None and (gradient[:2] > 0).all() and (gradient[2:] == 0).all()


def test_distill_follows_the_detached_teacher_on_its_population() -> None:
    made = hand_made([0, 1, 2], [-1, -1, 1])
    z = outputs(prerank=[0.1, 0.2, 0.3], rank=[1.0, -2.0, 0.5])
    term = DistillLoss(
        kind="distill", teacher="rank", student="prerank", on=["kept", "exposed"], temperature=2.0
    )
    soft = [1 / (1 + math.exp(-t / 2)) for t in (-2.0, 0.5)]
    assert value(term, z, made) == pytest.approx((bce(0.1, soft[0]) + bce(0.15, soft[1])) / 2, rel=1e-6)
    TotalLoss([term], SCOPE)(z, made, 1)[0].backward()
    assert z["rank"].logits["click"].grad is None
    assert z["prerank"].logits["click"].grad is not None and z["prerank"].logits["click"].grad[0] == 0


def test_distill_warms_up() -> None:
    term = DistillLoss(
        kind="distill", teacher="rank", student="prerank", on=["exposed"], warm_up=10, weight=0.5
    )
    assert [term.weight_at(step) for step in (0, 5, 10, 99)] == [0, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    "term",
    [
        ClickLoss(kind="click", stage="rank"),
        UnexposedLoss(kind="unexposed", stage="prerank", **{"from": ["cut"]}),
        DistillLoss(kind="distill", teacher="rank", student="prerank", on=["exposed"]),
    ],
)
def test_with_nothing_to_learn_from_a_loss_is_zero_and_so_are_its_gradients(term: Loss) -> None:
    made = hand_made([1], [-1])
    z = outputs(prerank=[float("inf")], rank=[float("inf")])
    total, means = TotalLoss([term], SCOPE)(z, made, 1)
    total.backward()
    assert means[term.name].item() == 0
    assert all(g is None or not g.any() for g in (z[s].logits["click"].grad for s in z))


def test_a_row_gets_a_hard_zero_or_a_teacher_never_both() -> None:
    terms = [
        UnexposedLoss(kind="unexposed", stage="prerank", **{"from": ["cut", "kept"]}),
        DistillLoss(kind="distill", teacher="rank", student="prerank", on=["kept", "exposed"]),
    ]
    with pytest.raises(ConfigError, match=r"losses\.1\.on: candidates of level kept are also hard negatives"):
        TotalLoss(terms, SCOPE).check()


def test_zeros_of_a_pointwise_levels_loss_are_hard_too() -> None:
    distill = DistillLoss(kind="distill", teacher="rank", student="prerank", on=["kept", "exposed"])
    hard = LevelsLoss(kind="levels", stage="prerank", form="bce", positive=["exposed"])
    with pytest.raises(ConfigError, match=r"losses\.0\.on: candidates of level kept .* \(prerank\.bce\)"):
        TotalLoss([distill, hard], SCOPE).check()
    TotalLoss([distill, LevelsLoss(kind="levels", stage="prerank", form="ranknet")], SCOPE).check()
    TotalLoss(
        [distill, LevelsLoss(kind="levels", stage="rank", form="bce", positive=["exposed"])], SCOPE
    ).check()


def test_only_what_some_loss_learns_from_is_read() -> None:
    terms = [
        ClickLoss(kind="click", stage="rank"),
        UnexposedLoss(kind="unexposed", stage="prerank", per_request=4, **{"from": ["cut"]}),
    ]
    assert TotalLoss(terms, SCOPE).population() == {2: None, 0: 4}


def test_terms_alike_are_told_apart_by_their_samples_or_by_their_number() -> None:
    terms = [ClickLoss(kind="click", stage="rank"), ClickLoss(kind="click", stage="rank", weight=0.1)]
    assert [name for name, _ in TotalLoss(terms, SCOPE).select(None)] == ["rank.click.0", "rank.click.1"]
    sources = [["cut"], ["kept", "exposed"], ["catalogue"]]
    apart = [
        UnexposedLoss(kind="unexposed", stage="prerank", per_request=1, **{"from": levels})
        for levels in sources
    ]
    names = ["prerank.unexposed.cut", "prerank.unexposed.kept-exposed", "prerank.unexposed.catalogue"]
    assert [name for name, _ in TotalLoss(apart, SCOPE).select(None)] == names
    assert [name for name, _ in TotalLoss(apart[:1], SCOPE).select(None)] == ["prerank.unexposed"]


EVERY = [
    {"kind": "click", "stage": "rank"},
    {"kind": "click", "stage": "prerank"},
    {"kind": "unexposed", "stage": "first", "from": ["cut"], "per_request": 1},
    {"kind": "in_batch", "stage": "prerank", "temperature": 0.5},
    *({"kind": "distill", "teacher": "rank", "student": "first", "form": f, "on": ["kept", "exposed"]}
      for f in ("pointwise", "listwise", "pairwise")),
    *({"kind": "levels", "stage": "rank", "form": f} for f in ("ranknet", "lambda", "softmax", "bce")),
    *({"kind": "cascade", "form": f, "positive": ["exposed"]} for f in ("lcron", "arf", "dftopk", "icc")),
    {"kind": "rankflow", "positive": ["exposed"]},
    {"kind": "info_nce", "stage": "rank", "margin": 0.5},
]  # fmt: skip


@pytest.mark.precision
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_stages_learn_from_every_loss_at_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    stages: list[TowersSettings | MlpSettings] = [
        TowersSettings(name="first", model="towers", value="click", keep=3),
        TowersSettings(name="prerank", model="towers", value="click", keep=2),
        MlpSettings(name="rank", model="mlp", keep=1),
    ]
    model = JointModel(stages, LAYOUT)
    model.dtype = dtype
    terms = TypeAdapter(list[Annotated[Loss, *by_name(LOSSES, "kind")]]).validate_python(EVERY)
    names = [stage.name for stage in stages]
    total = TotalLoss(
        terms,
        FunnelSpec(
            SCOPE.levels,
            ["click"],
            {name: ["click"] for name in names},
            {stage.name: stage.keep for stage in stages},
            with_vectors=names[:2],
        ),
    )
    total.check()
    made, _ = random_batch(3)
    value, means = total(model(made), made, 1)
    value.backward()
    assert len(means) == len(EVERY) and all(mean.isfinite() and mean > 0 for mean in means.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (
            (parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad)
            .isfinite()
            .all()
        )
    assert total.reads("first") == ["first", "rank"] and total.reads() == names
