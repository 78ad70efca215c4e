"""The parts of a joint model, by their types."""

from torch import Tensor

from corank.models.embedding import Tables
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
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
    found = model.tables[name]
    assert isinstance(found, Tables)
    return found


def grad_of(tensor: Tensor) -> Tensor:
    """The gradient of a tensor that has one."""
    assert tensor.grad is not None
    return tensor.grad
