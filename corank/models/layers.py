"""What towers and rankers are made of: linear layers, and sums over (request, item) pairs.

The input decides the precision: weights are cast to its dtype, so bf16 inputs give bf16 products of fp32 weights.

Letters: N rows · R requests · I distinct items · C candidates · h width.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Lt, MinLen
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.core.formula import Formula
from corank.core.settings import Settings
from corank.features.schema import Schema
from corank.models.embedding import gather, sum_rows
from corank.models.stage_context import StageContext

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
Widths = Annotated[list[PositiveInt], MinLen(1)]


class NetworkSettings(Settings):
    """What every stage and every teacher has."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    activation: Literal["relu", "gelu", "silu"] = "relu"
    normalisation: Literal["none", "layer"] = "none"
    """After the first linear layer. Never by batch: distinct items and candidates differ in their statistics."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    embeddings: Literal["shared", "own"] = "shared"
    """Tables shared with the other stages, or tables of the stage's own."""
    table_gradient: bool = True
    """Whether what the stage learns reaches the tables."""

    @abstractmethod
    def predicts(self) -> list[str]:
        """Its labels."""

    @abstractmethod
    def input_features(self, schema: Schema) -> dict[str, list[str]]:
        """Its inputs by name, such as `rank` or `prerank.query`, each with the features that enter it."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config."""
        context.require_labels(self.predicts())


class StageSettings(NetworkSettings):
    """What every stage of the cascade has."""

    cuts: list[str] = []
    """Levels of the log whose candidates this stage cut."""
    keep: PositiveInt
    """Quota: how many candidates go on to the next stage."""
    min_score: float | None = None
    """What scores less is cut, be there room or not."""
    deadline_ms: PositiveFloat | None = None
    """When a request must be through with this stage, from its arrival; else the order is that of the stage before."""
    value: str
    """By what it orders: an expression over its labels and the data's `columns`, such as `click * bid`."""

    scorer: ClassVar[str] = "graph"
    """The scorer that serves it: `vectors`, if it has item vectors, or `graph`."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config."""
        super().check(context)
        key, data, before = context.key, context.data, context.before
        for level in self.cuts:
            if level not in data.levels:
                raise ConfigError(f"{key}.cuts: no level '{level}'; data.levels are {', '.join(data.levels)}")
        if not before and self.deadline_ms is not None:
            raise ConfigError(
                f"{key}.deadline_ms: '{self.name}' is the first stage, and there is no other order; take it away"
            )
        if before and self.keep > (quota := before[last := list(before)[-1]]):
            raise ConfigError(
                f"{key}.keep: '{self.name}' would keep {self.keep} of the {quota} that "
                f"'{last}' leaves it; quotas fall along the cascade"
            )
        self.ordering(data.columns)

    def ordering(self, columns: Collection[str]) -> Formula:
        """Its value, parsed. Raises ConfigError, which names the key, where it is not of its labels and `columns`."""
        key = f"stages.{self.name}.value"
        try:
            value = Formula.parse(self.value, [*self.predicts(), *columns])
        except ValueError as error:
            raise ConfigError(f"{key}: {error} (labels of the stage, and data.columns)") from None
        if not set(value.names) & set(self.predicts()):
            raise ConfigError(
                f"{key}: {self.value!r} names no label of the stage; it predicts {', '.join(self.predicts())}"
            )
        return value

    @property
    def main(self) -> str:
        """The label that its value names first: whose positives it is judged by."""
        return main_label(self.value, self.predicts())


def check_tables(networks: Mapping[str, NetworkSettings]) -> None:
    """Raise ConfigError if no stage or teacher trains the tables that another reads.

    Args:
        networks: stages and teachers by their key, such as `stages.0`.
    """
    sharing = [network for network in networks.values() if network.embeddings == "shared"]
    for key, network in networks.items():
        users = sharing if network.embeddings == "shared" else [network]
        if not any(user.table_gradient for user in users):
            raise ConfigError(
                f"{key}.table_gradient: nobody would train the tables of '{network.name}'; "
                f"write true for {' or '.join(user.name for user in users)}"
            )


def check_separate_tables(networks: Mapping[str, NetworkSettings]) -> None:
    """Raise ConfigError if a stage that trains later changes the tables of one that has ended.

    Args:
        networks: stages and teachers by their key; the last trains first.
    """
    sharing = {key: network for key, network in networks.items() if network.embeddings == "shared"}
    for key, network in list(sharing.items())[:-1]:
        if network.table_gradient:
            raise ConfigError(
                f"{key}.embeddings: '{network.name}' trains after '{list(sharing.values())[-1].name}' and would "
                "change its tables; write embeddings: own, or table_gradient: false"
            )


def main_label(value: str, labels: Collection[str]) -> str:
    """The first of the labels that an expression over them names."""
    return value if value in labels else next(name for name in Formula.parse(value).names if name in labels)


class _LinearRelu(torch.autograd.Function):
    """relu(x Wᵀ + b) in one oneDNN call; the backward needs the output alone to know where relu passed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight, out = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, out, 0)
        down = passed @ weight if ctx.needs_input_grad[0] else None
        return down, passed.t() @ x, passed.sum(0)


_fused: Callable[..., Tensor] = _LinearRelu.apply


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype), bias)


def activated(x: Tensor, layer: nn.Linear, activation: str) -> Tensor:
    """activation(linear(x)): (N, h)."""
    if (
        activation == "relu"
        and x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
    ):
        return _fused(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
    return ACTIVATIONS[activation](linear(x, layer))


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return sum_rows(torch.cat((query, item)), batch.pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradient.contiguous()
        return sum_rows(gradient, ctx.batch.requests), sum_rows(gradient, ctx.batch.items), None


_pair_sum: Callable[..., Tensor] = _PairSum.apply


def pair_sum(query: Tensor, item: Tensor, batch: Batch) -> Tensor:
    """query[request_of] + item[item_of]: (R, h), (padded I, h) → (padded C, h)."""
    return _pair_sum(query, item, batch)


class _PairDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch) -> Tensor:
        left, right = gather(query, batch.request_of), gather(item, batch.item_of)
        ctx.save_for_backward(left, right)
        ctx.batch = batch
        dot: Tensor = torch.linalg.vecdot(left, right)
        return dot

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        return (
            sum_rows(gradient * right, ctx.batch.requests),
            sum_rows(gradient * left, ctx.batch.items),
            None,
        )


_pair_dot: Callable[..., Tensor] = _PairDot.apply


def pair_dot(query: Tensor, item: Tensor, batch: Batch) -> Tensor:
    """⟨query[request_of], item[item_of]⟩ in fp32: (R, h), (padded I, h) → (C,)."""
    return _pair_dot(query.float(), item.float(), batch)


class Tower(nn.Module):
    """An MLP whose last layer is linear: (N, width) → (N, widths[-1])."""

    def __init__(self, width: int, widths: Sequence[int], settings: NetworkSettings) -> None:
        super().__init__()
        self.activation, self.dropout = settings.activation, settings.dropout
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = cast(Sequence[nn.Linear], self.layers)
        for depth, layer in enumerate(hidden):
            if depth == 0 and self.norm is not None:
                x = ACTIVATIONS[self.activation](self.norm(linear(x, layer).float()).to(x.dtype))
            else:
                x = activated(x, layer, self.activation)
            x = functional.dropout(x, self.dropout, self.training)
        return linear(x, last)


class Columns(nn.Module):
    """Some columns of the dense input."""

    columns: Tensor

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.columns)
