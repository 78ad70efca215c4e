"""The parts of a joint model by their types, and its gradients."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corank.batches.batch import Batch
from corank.core.types import Floats
from corank.features.input_layout import TableSet
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
from corank.models.tables.embedding import Tables
from corank.models.two_tower import Towers


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


def table_set(model: JointModel, name: str = "shared") -> TableSet:
    """A set of tables and projections, as a bundle has them."""
    tables: dict[int | str, Floats] = {
        int(dim): weight.detach().numpy() for dim, weight in tables_of(model, name).weights.items()
    }
    return tables | {n: model.projection(name, n).detach().numpy() for n in model.layout.projections}


def plain_rows(inputs: Mapping[Any, Tensor], batch: Batch) -> Tensor:
    """The dense inputs of each candidate, side by side: (C, W)."""
    query, item = inputs["query"][batch.request_of], inputs["item"][batch.item_of]
    return torch.cat((query, item, *(inputs[p][: len(batch)] for p in ("snapshot", "cross"))), 1)


def randomise(module: nn.Module, std: float = 1.0) -> None:
    """Draw all parameters anew, those that begin at zero, too."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
