"""Losses as formulas over candidates, with masking, averaging and weighting written once.

A new loss is one file: a class derived from `Loss` with its settings, registered under its `kind`.

Letters: R requests · C candidates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat

from corank.batches.sampling import OUTCOMES, SOURCES, Outcomes, Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.registry import Registry, check_settings_class
from corank.core.settings import Settings, require_known

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@dataclass(frozen=True)
class FunnelSpec:
    """The parts of the config about log and stages that losses may refer to."""

    levels: Sequence[str]
    """Levels of the log, shallow to deep; the last is exposed."""
    labels: Sequence[str]
    stages: Mapping[str, Sequence[str]]
    """Stage or teacher → the labels that it predicts, in the order of the cascade."""
    keep: Mapping[str, int] = field(default_factory=dict)
    """Stage → its quota."""
    with_vectors: Sequence[str] = ()
    """The stages that have query and item vectors."""
    extras: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stage → what its network gives to losses in `StageOutput.extras`, for those that give something."""
    scores: Sequence[str] = ()
    """The logged scores, `data.scores`, and those of `tree_teachers`."""
    levelled: bool = True
    """Whether the log has a column of levels."""
    members: Mapping[str, int] = field(default_factory=dict)
    """Stage or teacher → its predictions, for those that have several."""
    logged_inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stage or teacher → what it reads that nobody knows of a pair beyond the log, for those that read such."""

    everywhere: Sequence[str] = ()
    """The labels that are known of candidates of all levels."""
    item_ids: Sequence[str] = ()
    """The features of items that have one code an item."""

    def level_code(self, name: str, key: str) -> int:
        """Return the code of a level. Raises ConfigError if there is no such level."""
        require_known(name, self.levels, key, "level", "data.levels")
        return self.levels.index(name)

    def source_code(self, name: str, key: str) -> int:
        """Return the code of a level or of a source of negatives beyond the log.

        Raises ConfigError if there is no such level, or the log has no candidates of it.
        """
        if name in SOURCES:
            return SOURCES[name]
        if not self.levelled and name != self.levels[-1]:
            raise ConfigError(
                f"{key}: the log has no levels (data.level is not given), so nobody knows what was {name} and not "
                f"shown; write {' or '.join(SOURCES)} for negatives beyond the log"
            )
        return self.level_code(name, key)

    def check_sources(self, names: Sequence[str], per_request: int | None, key: str, setting: str) -> None:
        """Raise ConfigError for a level or source that does not exist, and for a source that is not counted.

        Args:
            names: levels of the log and sources beyond it.
            per_request: candidates drawn of each; None for all.
            key: of the loss.
            setting: of the loss, which gives the names.
        """
        for name in names:
            if self.source_code(name, f"{key}.{setting}") in SOURCES.values() and per_request is None:
                raise ConfigError(
                    f"{key}.per_request: required, as '{name}' has no end; such as per_request: 5"
                )

    def check_teaching(self, teachers: Sequence[str], on: Sequence[str], key: str) -> None:
        """Raise ConfigError if a teacher cannot score candidates beyond the log that it is to teach on.

        Args:
            teachers: stages, teachers or scores.
            on: levels of the log and sources beyond it.
            key: of the loss.
        """
        beyond = next((name for name in on if name in SOURCES), None)
        for teacher in teachers if beyond else ():
            if teacher in self.scores:
                raise ConfigError(f"{key}.on: '{beyond}' is beyond the log, without '{teacher}'; drop one")
            if unknown := self.logged_inputs.get(teacher):
                raise ConfigError(
                    f"{key}.on: '{beyond}' is beyond the log, where nobody knows what '{teacher}' reads of "
                    f"{', '.join(unknown)}; drop '{beyond}', or let another teach that does not read it"
                )

    def source_name(self, code: int) -> str:
        """Return the name of a level, of a source of negatives beyond the log, or of the label of drawn outcomes."""
        names = {code: source for source, code in SOURCES.items()}
        names |= {OUTCOMES - n: label for n, label in enumerate(self.everywhere)}
        return names[code] if code in names else self.levels[code]

    def logged_code(self, name: str, key: str) -> int:
        """Return the code of a level of the log.

        Raises ConfigError if there is no such level, it is a source beyond the log, or the log has no candidates of it.
        """
        self.level_code(name, key)
        return self.source_code(name, key)

    def check_label(self, stage: str, label: str, key: str) -> None:
        """Raise ConfigError if there is no such stage, or it does not predict the label."""
        require_known(stage, self.stages, key, "stage", "stages")
        if label not in self.stages[stage]:
            raise ConfigError(
                f"{key}: stage '{stage}' does not predict the label '{label}'; "
                f"it predicts {', '.join(self.stages[stage])}"
            )

    def check_teacher(self, name: str, label: str, key: str) -> None:
        """Raise ConfigError unless a stage or teacher of that name predicts the label, or a score is called so."""
        if name in self.scores:
            return
        if name not in self.stages:
            raise ConfigError(
                f"{key}: no stage and no logged score (data.scores) is called '{name}'; "
                f"there are {', '.join([*self.stages, *self.scores])}"
            )
        self.check_label(name, label, key)


class Loss(Settings):
    """One loss of the config: its settings, the candidates that it learns from, and its formula.

    A subclass has a field `kind: Literal[NAME]`, registers with `@LOSSES.register(NAME)`, and defines `name`,
    `learner`, `check`, `population` and `values`. The rest is for losses that read other stages, learn from teachers,
    or take candidates as hard negatives. By a `StageLoss` one stage learns one of its labels: it lacks `values` alone.

    A config is checked without torch: a module that binds torch by `corank.core.lazy.lazy` loads it in `values`.

    Example:
        @LOSSES.register("squared")
        class SquaredLoss(Loss):
            kind: Literal["squared"]
            stage: str

            @property
            def name(self) -> str:
                return f"{self.stage}.squared"

            @property
            def learner(self) -> str:
                return self.stage

            def check(self, funnel: FunnelSpec, key: str) -> None:
                funnel.check_label(self.stage, "click", f"{key}.stage")

            def population(self, funnel: FunnelSpec) -> Population:
                return {len(funnel.levels) - 1: None}  # all exposed candidates

            def values(self, outputs, batch, funnel) -> tuple[Tensor, Tensor]:
                error = outputs[self.stage].logits["click"].sigmoid() - batch.labels["click"]
                return error**2, batch.label_weight("click")
    """

    kind: str
    """The name under which the class is registered; a subclass narrows it to that literal."""
    weight: NonNegativeFloat = 1.0
    """Factor of this loss in the total."""
    max_initial_ratio: ClassVar[float] = 1.0
    """How many times as large as the pointwise losses of its stage it may begin before it is warned of."""
    pointwise: ClassVar[bool] = False
    """Whether it takes each shown candidate on its own, with its label as the target."""
    extras: ClassVar[Sequence[str]] = ()
    """What it reads of `StageOutput.extras` of the stages that it trains; a stage that does not give it is refused."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in reports, such as `rank.click`."""

    @property
    @abstractmethod
    def learner(self) -> str | None:
        """The one stage that learns from the loss; None if several do."""

    @property
    def teachers(self) -> Sequence[str]:
        """The stages, teachers or logged scores whose detached logits the learner learns from."""
        return ()

    @property
    def warm_up_steps(self) -> int:
        """Optimiser steps over which the weight grows from 0."""
        return 0

    def reads(self, funnel: FunnelSpec) -> list[str]:
        """The stages and teachers whose outputs the loss takes."""
        return list(funnel.stages) if self.learner is None else [self.learner]

    def parameters(self, funnel: FunnelSpec) -> Sequence[str]:
        """The stages at each of which the loss learns a number of its own, such as the weight of a term.

        The number begins at 0, and is `outputs[stage].loss_parameters[self.name]`. It learns at ten times the rate of
        the stage's layers, and is in checkpoints, trackers and what `--from` takes over.
        """
        return ()

    def state(self, funnel: FunnelSpec) -> Mapping[str, Tensor]:
        """What the loss keeps between batches: name → tensor as it is before the first step, of finite numbers.

        They are saved and resumed with the training. `values` finds them in `outputs[stage].loss_state[self.name]` of
        every stage that the loss reads, and changes them in place, before its formula reads them. Of several ranks each
        holds its part of the rows, and a tensor without rows must become the same on all of them.
        """
        return {}

    def hard_negatives(self, funnel: FunnelSpec) -> set[int]:
        """The levels whose candidates get the target 0, whatever their label."""
        return set()

    def soft_targets(self, funnel: FunnelSpec) -> set[int]:
        """The levels, set by `on`, whose candidates get a teacher's target."""
        return set()

    @abstractmethod
    def check(self, funnel: FunnelSpec, key: str) -> None:
        """Raise ConfigError if a setting names a level, label or stage that does not exist.

        Args:
            funnel: the levels, labels and stages of the config.
            key: where the loss stands in the config, such as `losses.0`; messages begin with it.
        """

    @abstractmethod
    def population(self, funnel: FunnelSpec) -> Population:
        """The candidates to read for this loss: level or source → candidates drawn a request, None for all."""

    def outcomes(self, funnel: FunnelSpec) -> Mapping[int, Outcomes]:
        """The outcomes to read besides levels: code in `population` → what is drawn."""
        return {}

    def needed_labels(self) -> Sequence[str]:
        """The labels one of which must be known of a candidate for the loss to learn from it; none if none matters.

        A request without such a candidate is not read, unless another loss learns from it.
        """
        return ()

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        """Count the rows that it learns from in a split: training without positives or negatives is refused.

        Unless a loss says otherwise, its targets are soft: every row of its population may be either.
        """
        rows = counts.rows(self.population(funnel))
        return Targets(rows, rows, rows)

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """Estimate its value for a stage that knows averages alone, to compare the sizes of losses; None if not known.

        Args:
            counts: those of the training split.
            funnel: the levels, labels and stages of the config.
            requests: requests of a batch.
        """
        return None

    @abstractmethod
    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        """The formula.

        Args:
            outputs: output by stage, at least of those that the loss `reads`.
            batch: the batch, which may hold candidates of other losses, too, whose logits may be 0: mask by
                `batch.in_population(population)`.
            funnel: the levels, labels and stages of the config.

        Returns:
            Losses and their weights, of candidates (C,), of some of them, or of requests (R,); weight 0 where masked.
        """

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor | None:
        """The weights that `values` returns, if the batch alone decides them; None if outputs do.

        Several ranks sum them before the outputs are known, so that none waits for others in the middle of a step. A
        class that inherits this and returns other weights from its `values` overrides it.
        """
        return None

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        """Make what the formula reads of the batch alone, by `Batch.once`, before the batch is copied to a GPU.

        What takes a number or a size from tensors belongs here: in `values` the host would wait for the GPU there.
        """

    def weight_at(self, step: int) -> float:
        """Its factor at an optimiser step: `weight`, or less while it warms up."""
        return self.weight * min(1.0, step / self.warm_up_steps if self.warm_up_steps else 1.0)


class StageLoss(Loss):
    """A loss by which one stage learns one of its labels."""

    stage: str
    """The stage to train."""
    label: str = "click"
    """Which of its logits."""

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.kind}"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, self.label, f"{key}.stage")

    def population(self, funnel: FunnelSpec) -> Population:
        """All exposed candidates; of a label that is known everywhere those of all levels."""
        deepest = len(funnel.levels) - 1
        return dict.fromkeys(range(deepest + 1) if self.label in funnel.everywhere else [deepest])

    def placed_logits(self, outputs: Mapping[str, StageOutput]) -> Tensor:
        """The label's logits, with the learnt effect of the position: (C,)."""
        output = outputs[self.stage]
        z = output.logits[self.label]
        return z + output.positions[self.label] if self.label in output.positions else z


LOSSES = Registry[type[Loss]](
    "loss", "corank.losses", "corank.losses", partial(check_settings_class, bases=(Loss,))
)
