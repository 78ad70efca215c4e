"""How a run trains: the `train` part of the config.

Settings of export: the precision of what is stored of every item, and what that may cost.

Settings of boosted trees that teach.

The section `drift` of a config: how far new rows may be from those that a run was trained on.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Interval, Le, Lt
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
from corank.core.settings import Settings, describe_unknown, require_known
from corank.core.stored_matrix import Precision
from corank.losses.base import Loss
from corank.metrics.metric import validation_metrics
from corank.models.settings.trees import BoostingSettings

AUTO: Literal["auto"] = "auto"
"""A number that follows from how many requests train: see `corank.training.config.config`."""
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
    """Epochs without a better value after which training ends; those that end before step 100 do not count."""

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

    mode: Literal["joint", "separate", "alternate"] = "joint"
    """joint: all stages in one step. separate: each for all its epochs, the last stage first; an earlier stage must
    leave the tables of a later one as they are. alternate: a step each in turn, a batch; it takes longer, and helps
    where the sum of the losses is unstable. Stages that do not learn in a step have no dropout."""
    epochs: Annotated[Annotated[NonNegativeInt, Tag("number")] | _Auto, _NUMBER_OR_AUTO] = 1
    """Of every stage that has none of its own, where they train separately. 0 only takes weights over, by
    `corank train --from`. auto: as many as make some 600 optimiser steps, 20 at most, and 1 of millions of requests;
    with a split `valid`, and unless `early_stop` is given, it also stops with a patience of 2 by the AUC of the first
    label of the last stage that learns by steps."""
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
    """Decay d of a running average of the weights, which is then evaluated and shipped: over some 1/(1−d) steps, and
    over all of a shorter training."""
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

    def steps_of_epoch(self, requests: int) -> int:
        """Optimiser steps of an epoch over so many requests. Raises ConfigError if the batch is auto still."""
        return -(-requests // self.batch_size)

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
            raise ConfigError("train.early_stop: in train.mode: separate each stage ends by itself; drop it")


Share = Annotated[float, Ge(0), Le(1)]
RECALL_LOSS, PROBABILITY_LOSS = 0.01, 0.002
"""Bounds that hold where none are set."""


class ExportSettings(Settings):
    """How a bundle stores what is computed of every item ahead of requests.

    Example:
        export: {precision: {prerank.vector: fp16}, max_recall_loss: 0.005}
    """

    precision: dict[str, Precision] = {}
    """By `STAGE.PART`, how its numbers are stored: `fp32`, `fp16`, or `int8` with a scale an item; else fp32."""
    max_recall_loss: Share | None = None
    """The largest share of a stage's kept candidates that a lower precision may change on logged requests; 0.01 by
    default."""
    max_probability_loss: Share | None = None
    """By how much a lower precision may change a calibrated probability on logged requests; 0.002 by default."""

    @property
    def lowered(self) -> dict[str, Precision]:
        """The parts that are stored in less than fp32."""
        return {name: precision for name, precision in self.precision.items() if precision != "fp32"}

    def of(self, stage: str) -> dict[str, Precision]:
        """By part of a stage, its precision if that is less than fp32."""
        parts = (name.partition(".") for name in self.lowered)
        return {part: self.lowered[f"{name}.{part}"] for name, _, part in parts if name == stage}

    @property
    def recall_bound(self) -> float:
        """The largest loss of recall."""
        return RECALL_LOSS if self.max_recall_loss is None else self.max_recall_loss

    @property
    def probability_bound(self) -> float:
        """The largest change of a probability."""
        return PROBABILITY_LOSS if self.max_probability_loss is None else self.max_probability_loss

    def check(self, parts: Collection[str]) -> None:
        """Raise ConfigError if the stages store no such part, or a bound has no effect.

        Args:
            parts: `STAGE.PART` of every part.
        """
        for name in self.precision:
            if not parts:
                raise ConfigError(f"export.precision.{name}: no stage stores anything of items; drop it")
            if name not in parts:
                raise ConfigError(f"export.precision: {describe_unknown(name, parts, 'item part')}")
        for key in ("max_recall_loss", "max_probability_loss"):
            if getattr(self, key) is not None and not self.lowered:
                raise ConfigError(
                    f"export.{key}: every part is stored in fp32, which loses nothing; take it away, or name a part "
                    "under export.precision"
                )


class TreeTeacherSettings(BoostingSettings):
    """Gradient-boosted trees that are fitted before training, and teach by `distill`; neither evaluated nor shipped.

    A training candidate is scored by trees that did not see its request: of `folds` parts of the requests each is
    scored by trees that are fitted to the others. Needs the extra `trees`.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """By which losses know it."""
    label: str = "click"
    """The label that it predicts."""
    folds: Annotated[int, Ge(2), Le(20)] = 3
    """Parts of the requests."""

    def check(self, key: str, labels: Sequence[str], taken: Sequence[str], losses: Sequence[Loss]) -> None:
        """Raise ConfigError, which begins with the key, if it contradicts the rest of the config.

        Args:
            key: where it is in the config.
            labels: those of the log.
            taken: names of stages, teachers and logged scores, and of the trees before it.
            losses: all of the config.
        """
        require_known(self.label, labels, f"{key}.label", "label", "data.labels")
        if self.name in taken:
            raise ConfigError(f"{key}.name: a stage, a teacher or a score is called '{self.name}', too")
        pupils = [(n, loss) for n, loss in enumerate(losses) if self.name in loss.teachers]
        if not pupils:
            raise ConfigError(
                f"{key}: nobody learns from '{self.name}'; add a loss {{kind: distill, teacher: {self.name}, …}}"
            )
        for n, loss in pupils:
            if (label := getattr(loss, "label", self.label)) != self.label:
                raise ConfigError(
                    f"losses.{n}.label: '{self.name}' predicts {self.label}; received {label}; add another of "
                    "tree_teachers for it"
                )


Factor = Annotated[float, Gt(1)]
"""How many times as much, or how many times less."""
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
"""A difference of two shares."""


class DriftSettings(Settings):
    """How far new rows may be from those of the run they are compared with; null: that is not judged.

    Example:
        drift: {rows: 3, psi: null, unjudged: [upload_day]}
    """

    columns: bool = True
    """Whether a column that is missing, added or of another type is refused."""
    rows: Factor | None = 1.6
    """The new candidates may be this many times those of earlier periods of the same length, or as many times fewer."""
    levels: Factor | None = 2.0
    """A level's share of the candidates, likewise."""
    labels: Factor | None = 1.5
    """A label's rate among the exposed candidates whose label is known, likewise."""
    missing: PositiveShare | None = 0.1
    """How much the share of candidates without a value may change, of each feature."""
    new_ids: PositiveShare | None = 0.2
    """How much higher the share of values that the run does not know may be than after its training ended."""
    psi: Annotated[float, Gt(0)] | None = 0.25
    """The population stability index of each feature, at most."""
    min_count: PositiveInt = 100
    """Shares and rates are judged if so many candidates, or positives, are expected: those of fewer vary by chance."""
    unjudged: list[str] = []
    """Features whose new ids and PSI are shown, and refuse nothing: such as those that move on with time."""

    def check(self, features: list[str]) -> None:
        """Raise ConfigError if `unjudged` names what is no feature."""
        for name in self.unjudged:
            if name not in features:
                raise ConfigError(f"drift.unjudged: {describe_unknown(name, features, 'feature')}")
