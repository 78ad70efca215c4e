"""How a run trains: the `train` part of the config."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.metrics.metric import validation_metrics

AUTO: Literal["auto"] = "auto"
"""A number that follows from how many requests train: see `corank.training.preparation.schedule`."""
MOST_REPLICATED = 4_000_000
"""Weights of all tables, at most, for `tables: auto` to replicate them: 16 MiB."""


class TableOptimiser(Settings):
    """How the embedding tables learn; only rows of the batch are touched."""

    optimiser: Literal["rowwise_adagrad", "lazy_adam"] = "rowwise_adagrad"
    """A learning rate that falls by row, or Adam on the rows of the batch."""
    lr: PositiveFloat = 0.05
    """Learning rate."""
    decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Of rowwise_adagrad: what is left of a row's sum of squared gradients at each update of the row. At 1 sums only
    grow, and with them the rate of frequent rows falls for good: write less, such as 0.999, if runs continue others."""

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        if self.decay < 1 and self.optimiser != "rowwise_adagrad":
            raise ValueError(f"decay has no effect with {self.optimiser}; drop it")
        return self


class DenseOptimiser(Settings):
    """How a stage learns."""

    optimiser: Literal["adam"] = "adam"
    """The only one."""
    lr: PositiveFloat = 0.001
    """Learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled, as in AdamW."""
    epochs: PositiveInt | None = None
    """Epochs of this stage in `train.mode: separate`; `train.epochs` by default."""


class EarlyStop(Settings):
    """Stop when a validation metric has not improved for `patience` epochs; the best epoch's weights are kept."""

    metric: str = "rank.click.auc"
    """stage.label.metric; metrics of the table that have `validation`, such as auc, request_auc and logloss."""
    patience: PositiveInt = 1
    """Epochs without a better value after which training ends."""

    def merit(self, value: float) -> float:
        """A number that is higher for the better of two values of the metric."""
        return validation_metrics()[self.metric.rpartition(".")[2]].merit(value)


_Auto = Annotated[Literal["auto"], Tag("auto")]
_NUMBER_OR_AUTO = Discriminator(lambda value: "auto" if value == AUTO else "number")
"""All but `auto` is refused by the fault of a number alone."""


def _number(value: int | str, key: str) -> int:
    if isinstance(value, str):
        raise ConfigError(f"train.{key}: {value} is no number before the training requests are counted")
    return value


class TrainSettings(Settings):
    """How a run trains. A key named as a stage (`rank: {lr: 0.001}`) sets that stage's optimiser."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, DenseOptimiser] = Field(init=False)
    gone: ClassVar[Mapping[str, str]] = {
        "gradient_conflict": "projected gradients bettered the end of the cascade in no measured world; remove it",
        "skip_easy": "it bettered the end of the cascade in no measured world; remove it",
    }

    mode: Literal["joint", "separate", "alternate"] = "joint"
    """All stages in one step; each for all its epochs, the last stage first; or a step each in turn, a batch."""
    epochs: Annotated[Annotated[NonNegativeInt, Tag("number")] | _Auto, _NUMBER_OR_AUTO] = 1
    """Of every stage that has none of its own, where they train separately. 0 only takes weights over, by
    `corank train --from`. auto: as many as make some 600 optimiser steps, 20 at most, and 1 of millions of requests;
    with a split `valid`, and unless `early_stop` is given, it also stops by the AUC of the last stage's first label
    with a patience of 2."""
    requests: Annotated[Annotated[int, Ge(1), Le(2**16), Tag("number")] | _Auto, _NUMBER_OR_AUTO] = 256
    """Requests a batch. auto: about a two-hundredth of those that train, from 16 to 256."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Of first weights, order and draws."""
    table: TableOptimiser = TableOptimiser()
    """Of the embedding tables."""
    tables: Literal["auto", "sharded", "replicated"] = "auto"
    """Whether several processes share the rows of the embedding tables, or have all of them each. auto: they share
    tables of more than 4 million numbers. One process has all rows, so that the same config runs on any number."""
    average: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay d of a running average of the weights, which is then evaluated and shipped. It begins at the first weights,
    so train several times 1/(1−d) steps."""
    early_stop: EarlyStop | None = None
    """Stop by a figure of the validation split; all epochs by default."""
    checkpoint_every: PositiveInt = 1000
    """Optimiser steps between checkpoints; one is written after every epoch, too."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the matrix products in training; auto is bf16 where the processor has instructions for it, else fp32.
    Evaluation is fp32."""

    @property
    def stages(self) -> dict[str, DenseOptimiser]:
        """The optimiser of each stage and teacher that has one of its own."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def planned(self) -> bool:
        """Whether epochs and requests a batch are numbers."""
        return AUTO not in (self.epochs, self.requests)

    @property
    def batch_size(self) -> int:
        """Requests a batch, as a number. Raises ConfigError if it is auto still."""
        return _number(self.requests, "requests")

    def epochs_of(self, name: str | None) -> int:
        """Epochs of a stage or teacher in mode separate; of None, of all that train together.

        Raises ConfigError if they are auto still.
        """
        own = self.stages.get(name or "", DenseOptimiser()).epochs
        return _number(self.epochs, "epochs") if own is None else own

    def shards_tables(self, weights: int) -> bool:
        """Whether several processes share the rows of tables that have so many weights in all."""
        return self.tables == "sharded" or (self.tables == "auto" and weights > MOST_REPLICATED)

    def check(self, labels: Mapping[str, Sequence[str]]) -> None:
        """Raise ConfigError if early stopping is impossible, or by a metric that does not exist.

        Args:
            labels: the labels that each stage of the cascade predicts.
        """
        for name, stage in self.stages.items():
            if stage.epochs is not None and self.mode != "separate":
                raise ConfigError(
                    f"train.{name}.epochs: has no effect in train.mode: {self.mode}, where all stages end together; "
                    "drop it, or write mode: separate"
                )
        if self.early_stop is None:
            return
        named = [f"{stage}.{label}" for stage in labels for label in labels[stage]]
        head, _, metric = self.early_stop.metric.rpartition(".")
        if head not in named or metric not in validation_metrics():
            raise ConfigError(
                f"train.early_stop.metric: unknown metric '{self.early_stop.metric}'; expected STAGE.LABEL.METRIC of "
                f"{', '.join(named)} and {', '.join(validation_metrics())}"
            )
        if self.mode == "separate":
            raise ConfigError(
                "train.early_stop: the stages of train.mode: separate end one after another; drop it"
            )
