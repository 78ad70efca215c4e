"""The sum of losses, what every loss keeps, and the pointwise losses against their formulas."""

from typing import Any

import numpy as np
import pytest
import torch

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES
from corank.losses.total import TotalLoss
from corank.models.stage_io import StageOutput
from corank.testing.batches import batch, rows
from corank.testing.losses import (
    SCOPE,
    learn_at_once,
    made_of,
    outputs,
    require_names_that_exist,
    require_zero_without_lists,
)
from tests.support.loss_cases import bce, gradient_of, sigmoid

CLICK = {"kind": "click", "stage": "rank"}
UNEXPOSED = {"kind": "unexposed", "stage": "prerank", "from": ["cut"]}
DISTILL = {"kind": "distill", "teacher": "rank", "student": "prerank", "on": ["cut", "exposed"]}
EVERY: list[dict[str, Any]] = [
    CLICK,
    {"kind": "click", "stage": "prerank"},
    UNEXPOSED | {"stage": "rank", "per_request": 1},
    {"kind": "in_batch", "stage": "prerank", "temperature": 0.5},
    *(DISTILL | {"form": form} for form in ("pointwise", "listwise", "pairwise")),
    {"kind": "listwise", "stage": "rank"},
    {"kind": "pairwise", "stage": "prerank"},
    *({"kind": "levels", "stage": "rank", "form": form, "on": ["cut", "exposed"]}
      for form in ("ranknet", "lambda", "softmax")),
    *({"kind": "cascade", "form": form, "positive": ["exposed"]} for form in ("lcron", "arf_v2", "dftopk")),
    {"kind": "info_nce", "stage": "rank", "margin": 0.5},
]  # fmt: skip
"""Every loss of corank, in each form."""


def test_every_loss_is_here() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("corank.")}
    # outcomes need a label that is known everywhere: test_outcome.py
    assert {values["kind"] for values in EVERY} == own - {"outcome"}


@pytest.mark.parametrize("values", EVERY, ids=lambda values: f"{values['kind']}-{values.get('form')}")
def test_every_loss_is_zero_without_lists_and_refuses_names_that_do_not_exist(values: dict[str, Any]) -> None:
    require_zero_without_lists(values)
    require_names_that_exist(values)


@pytest.mark.precision
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_stages_learn_from_every_loss_at_once(dtype: torch.dtype) -> None:
    learn_at_once(EVERY, dtype)


def hand_made(level: list[int], click: list[int]) -> Batch:
    n = len(level)
    each = np.arange(n)
    return batch(rows(np.random.default_rng(0), n, n, n), each, each, np.array(level), np.array(click))


def value(values: dict[str, Any], z: dict[str, StageOutput], made: Batch) -> float:
    """The mean of a loss, its gradients left in `z`."""
    total, means = TotalLoss([made_of(values)], SCOPE)(z, made, 1)
    total.backward()
    return next(iter(means.values())).item()


def test_click_is_the_weighted_mean_over_exposed_candidates_with_a_known_label() -> None:
    made = hand_made([2, 2, 2, 1, 0], [1, 0, -1, -1, -1])
    made.weight[:2] = torch.tensor([3.0, 1.0])
    z = outputs(prerank=[0.5, -1.0, *[float("inf")] * 3])
    mean = value(CLICK | {"stage": "prerank"}, z, made)
    assert mean == pytest.approx((3 * bce(sigmoid(0.5), 1) + bce(sigmoid(-1.0), 0)) / 4, rel=1e-6)
    assert not gradient_of(z)[2:].any()


def test_unexposed_pushes_cut_candidates_down() -> None:
    z = outputs(prerank=[0.3, -0.7, 5.0, float("inf")])
    mean = value(UNEXPOSED, z, hand_made([0, 0, 1, 2], [-1, -1, -1, 1]))
    assert mean == pytest.approx((bce(sigmoid(0.3), 0) + bce(sigmoid(-0.7), 0)) / 2, rel=1e-6)
    assert (gradient_of(z)[:2] > 0).all() and not gradient_of(z)[2:].any()


def test_a_weight_warms_up() -> None:
    term = made_of(DISTILL | {"warm_up": 10, "weight": 0.5})
    assert [term.weight_at(step) for step in (0, 5, 10, 99)] == [0, 0.25, 0.5, 0.5]


def test_a_row_gets_a_hard_zero_or_a_teacher_never_both() -> None:
    terms = [made_of(UNEXPOSED | {"from": ["cut", "kept"]}), made_of(DISTILL | {"on": ["kept", "exposed"]})]
    with pytest.raises(ConfigError, match=r"losses\.1\.on: candidates of level kept are also hard negatives"):
        TotalLoss(terms, SCOPE).check()
    TotalLoss([made_of(UNEXPOSED | {"stage": "rank"}), terms[1]], SCOPE).check()


def test_only_what_some_loss_learns_from_is_read() -> None:
    terms = [made_of(CLICK), made_of(UNEXPOSED | {"per_request": 4})]
    assert TotalLoss(terms, SCOPE).population() == {2: None, 0: 4}
    total = TotalLoss([made_of(values) for values in EVERY], SCOPE)
    assert total.reads("prerank") == ["prerank", "rank"] and total.reads() == list(SCOPE.stages)
