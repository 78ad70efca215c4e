"""The parts of a joint model by their types, and its gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corank.batches.batch import Batch
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
from corank.models.settings.stage import StageSettings
from corank.models.stage_io import StageOutput
from corank.models.tables.embedding import Tables
from corank.models.two_tower import Towers
from corank.testing.batches import LAYOUT

Forward = Callable[[JointModel, Batch], dict[str, StageOutput]]


def joint(*stages: StageSettings, seed: int = 0, **more: Any) -> JointModel:
    """A model whose embeddings are far from zero, so that every gradient is of some size; `more` as of JointModel."""
    torch.manual_seed(seed)
    built = JointModel(stages, LAYOUT, **more)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
    return built


def learn(
    built: JointModel, total: TotalLoss, batch: Batch, forward: Forward = JointModel.__call__
) -> tuple[float, dict[str, NDArray[Any]]]:
    """A loss, and the gradients that it gives."""
    value, _ = total(forward(built, batch), batch, 1)
    built.zero_grad(set_to_none=True)
    value.backward()
    return value.item(), dense_gradients(built)


def assert_learns_alike(
    built: JointModel, total: TotalLoss, ours: Batch, theirs: Batch, forward: Forward = JointModel.__call__
) -> None:
    """Fail unless the same candidates in another form, or of another forward, give the same logits and gradients."""
    for stage, output in forward(built, theirs).items():
        for label, logits in output.logits.items():
            torch.testing.assert_close(built(ours)[stage].logits[label], logits, rtol=1e-3, atol=1e-4)
    (value, our_gradients), (other, their_gradients) = (
        learn(built, total, ours),
        learn(built, total, theirs, forward),
    )
    assert value == pytest.approx(other, rel=1e-4, abs=1e-5)
    for name, gradient in our_gradients.items():
        np.testing.assert_allclose(gradient, their_gradients[name], rtol=2e-3, atol=1e-4, err_msg=name)


def two_tower(model: JointModel, name: str = "prerank") -> Towers:
    """The stage of two towers."""
    stage = model.stages[name]
    assert isinstance(stage, Towers)
    return stage


def mlp(model: JointModel, name: str = "rank") -> Mlp:
    """The stage of full layers."""
    stage = model.stages[name]
    assert isinstance(stage, Mlp)
    return stage


def tables_of(model: JointModel, name: str = "shared") -> Tables:
    """A set of embedding tables."""
    tables = model.tables[name]
    assert isinstance(tables, Tables)
    return tables


def grad_of(tensor: Tensor) -> Tensor:
    """The gradient of a tensor that has one."""
    assert tensor.grad is not None
    return tensor.grad


def linears(layers: nn.Module | Tensor) -> list[nn.Linear]:
    """The layers of a list that holds nothing else."""
    assert isinstance(layers, nn.ModuleList)
    members = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(members) == len(layers)
    return members


def dense_gradients(model: JointModel) -> dict[str, NDArray[Any]]:
    """The gradients of all parameters by name, those of tables made dense."""
    gradients = {name: grad_of(parameter) for name, parameter in model.named_parameters()}
    return {name: np.asarray(g.to_dense() if g.is_sparse else g) for name, g in gradients.items()}


def plain_rows(inputs: Mapping[Any, Tensor], batch: Batch) -> Tensor:
    """The dense inputs of each candidate, side by side: (C, W)."""
    query, item = inputs["query"][batch.request_of], inputs["item"][batch.item_of]
    return torch.cat((query, item, *(inputs[p][: len(batch)] for p in ("snapshot", "cross"))), 1)


def randomise(module: nn.Module, std: float = 1.0) -> None:
    """Draw all parameters anew, those that begin at zero, too."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
