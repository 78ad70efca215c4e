"""Losses of batches made by hand, and what must hold of every loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.core.registry import by_name
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.total import TotalLoss, divide, weighted_sum
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput, StageVectors
from corank.testing.batches import LAYOUT, batch, random_batch, rows

LEVELS = ["cut", "kept", "exposed"]
STAGES = ("prerank", "rank", "rerank")
SCOPE = FunnelSpec(
    LEVELS,
    ["click"],
    {stage: ["click"] for stage in STAGES},
    keep={"prerank": 3, "rank": 2, "rerank": 1},
    with_vectors=["prerank"],
    scores=["production"],
)
"""The funnel of these batches."""


def requests(levels: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> Batch:
    """A batch of requests given by the levels of their candidates, which are all distinct items and not clicked."""
    level = np.concatenate([np.asarray(one, dtype=np.int64) for one in levels])
    request_of = np.repeat(np.arange(len(levels)), [len(one) for one in levels])
    sides = rows(np.random.default_rng(0), len(levels), len(level), len(level))
    made = batch(sides, request_of, np.arange(len(level)), level, np.where(level == 2, 0, -1))
    return made if weights is None else replace(made, weight=torch.tensor(weights))


def outputs(**stages: Sequence[float]) -> dict[str, StageOutput]:
    """Logits of one label by stage, as leaves that take gradients."""
    return {stage: output(torch.tensor(z, dtype=torch.float32)) for stage, z in stages.items()}


def output(z: torch.Tensor) -> StageOutput:
    """The output of a stage whose only label is `click`."""
    return StageOutput({"click": z.requires_grad_()})


def loss(term: Loss, z: Mapping[str, StageOutput], made: Batch, scope: FunnelSpec = SCOPE) -> float:
    """The term's mean, its gradients left in `z`. Fails unless its weights are those that it announces."""
    term.check(scope, "losses.0")
    values, weights = term.values(z, made, scope)
    announced = term.weights(made, scope)
    assert announced is None or torch.equal(announced, weights)
    total = divide(*weighted_sum(values, weights))
    total.backward()
    return total.item()


def made_of(values: Mapping[str, Any]) -> Loss:
    """A loss, read as from a config."""
    read: Loss = TypeAdapter(Annotated[Loss, *by_name(LOSSES, "kind")]).validate_python(dict(values))
    return read


def require_zero_without_lists(values: Mapping[str, Any]) -> None:
    """Fail unless a loss, and its gradients, are 0 where a batch has nothing that it learns from."""
    term = made_of(values)
    cases: list[list[list[int]]] = [[[], []], [[1]], [[1], [1, 1]]]
    for levels in cases:
        count = sum(map(len, levels))
        z = outputs(**dict.fromkeys(STAGES, [20.0] * count))
        vectors = StageVectors(torch.ones(2, 4), lambda: torch.ones(9, 4), torch.ones(()), torch.ones(()))
        z["prerank"] = replace(z["prerank"], vectors=vectors)
        z = {stage: replace(one, loss_parameters={term.name: torch.ones(())}) for stage, one in z.items()}
        assert loss(term, z, requests(levels)) == 0
        for stage in STAGES:
            gradient = z[stage].logits["click"].grad
            assert gradient is None or not gradient.any(), (levels, stage)


def require_names_that_exist(values: Mapping[str, Any]) -> None:
    """Fail unless a loss refuses stages, labels and levels that do not exist, by key."""
    absent = {
        **dict.fromkeys(("stage", "student", "teacher"), "gone"),
        **{key: ["gone"] for key in ("stages", "positive", "on", "from")},
        "label": "gone",
    }
    made_of(values).check(SCOPE, "losses.0")
    for key in {*values, "label"} & absent.keys():
        with pytest.raises((ConfigError, ValueError), match=r"gone|positive"):
            made_of({**values, key: absent[key]}).check(SCOPE, "losses.0")


def learn_at_once(every: Sequence[Mapping[str, Any]], dtype: torch.dtype) -> None:
    """Fail unless stages `first`, `prerank`, both towers, and `rank` get finite losses and gradients of all losses.

    Of the stages that your loss does not train, give others: `{"kind": "click", "stage": "first"}`.
    """
    torch.manual_seed(0)
    stages: list[TowersSettings | MlpSettings] = [
        TowersSettings(name="first", model="towers", value="click", keep=3),
        TowersSettings(name="prerank", model="towers", value="click", keep=2),
        MlpSettings(name="rank", model="mlp", keep=1),
    ]
    names = [stage.name for stage in stages]
    funnel = FunnelSpec(
        LEVELS,
        ["click"],
        {name: ["click"] for name in names},
        {stage.name: stage.keep for stage in stages},
        with_vectors=names[:2],
    )
    total = TotalLoss([made_of(values) for values in every], funnel)
    total.check()
    model = JointModel(stages, LAYOUT, loss_parameters=total.parameters())
    model.dtype = dtype
    made, _ = random_batch(3, requests=12)
    value, means = total(model(made), made, 1)
    value.backward()
    assert len(means) == len(every)
    for name, mean in means.items():
        assert mean.isfinite() and mean > 0, name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no loss teaches {name}"
        gradient = parameter.grad
        assert (gradient.coalesce().values() if gradient.is_sparse else gradient).isfinite().all(), name
