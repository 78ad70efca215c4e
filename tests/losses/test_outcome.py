"""Loss of outcomes, against a loop, and the logits that it leaves alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.sampling import OUTCOMES
from corank.core.errors import ConfigError
from corank.losses.base import FunnelSpec
from corank.losses.outcome import OutcomeLoss
from corank.losses.total import TotalLoss
from corank.models.stage_io import StageOutput
from corank.testing.losses import LEVELS, loss, outputs, requests

FUNNEL = FunnelSpec(
    LEVELS, ["click", "later"], {"prerank": ["click"], "rank": ["click", "later"]}, everywhere=["later"]
)


def term(**changes: Any) -> OutcomeLoss:
    return OutcomeLoss(**{"kind": "outcome", "stage": "prerank", "of": "later"} | changes)


def batch_of(later: list[list[int]], rates: list[float] | None = None) -> Batch:
    """Requests of an exposed candidate, whose outcome is 1 at its own level, and of drawn ones with these outcomes."""
    made = requests([[2] + [0] * len(one) for one in later])
    labels = torch.tensor([float(x) for one in later for x in [1, *one]])
    level = torch.where(made.level == 2, 2, OUTCOMES).to(torch.uint8)
    log_rates = torch.tensor(rates or [0.0] * len(labels))
    return replace(made, level=level, labels=made.labels | {"later": labels}, log_rates={"later": log_rates})


def test_each_outcome_leads_the_others_of_its_request() -> None:
    z = outputs(prerank=[9, 1, 2, 0.5, 9, 3, 9, 1])
    made = batch_of([[1, 0, 0], [1], [0]])  # no other, and no outcome, in the second and third
    expected = math.log(math.exp(1) + math.exp(2) + math.exp(0.5)) - 1
    assert loss(term(), z, made, FUNNEL) == pytest.approx(expected)
    gradient = z["prerank"].logits["click"].grad
    assert gradient is not None
    assert torch.nonzero(gradient).flatten().tolist() == [1, 2, 3]


def test_the_rate_of_an_item_explains_a_part_of_its_outcomes() -> None:
    z = outputs(prerank=[0, 1, 2, 0.5])
    made = batch_of([[1, 0, 0]], rates=[0, 1.5, -1, 0])
    expected = math.log(math.exp(2.5) + math.exp(1) + math.exp(0.5)) - 2.5
    assert loss(term(), z, made, FUNNEL) == pytest.approx(expected)


def test_a_head_of_its_own_leaves_the_logits_of_clicks_alone() -> None:
    made = batch_of([[1, 0, 0]])
    click, later = (torch.zeros(4, requires_grad=True) for _ in range(2))
    z = {"rank": StageOutput({"click": click, "later": later})}
    assert loss(term(stage="rank", label="later"), z, made, FUNNEL) > 0
    assert click.grad is None
    assert later.grad is not None


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"of": "click"}, "losses.0.of"), ({"of": "gone"}, "losses.0.of"), ({"bias": "gone"}, "losses.0.bias")],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        term(**changes).check(FUNNEL, "losses.0")


def test_rates_of_a_label_are_counted_in_one_way() -> None:
    with pytest.raises(ConfigError, match=r"losses\.1\.bias"):
        TotalLoss([term(), term(stage="rank", bias=None)], FUNNEL).check()
