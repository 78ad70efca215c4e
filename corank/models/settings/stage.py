"""Settings that every stage of the cascade has, and the registry of stage models.

`corank.models.stage_model` describes stage models and how to add one.
"""

import re
from collections.abc import Collection, Sequence
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from corank.core.errors import ConfigError, PluginError
from corank.core.ordering import Formula
from corank.core.registry import Registry, by_name, check_class
from corank.core.settings import require_known, validate
from corank.features.input_layout import Layout
from corank.features.schema import Schema
from corank.models.settings.network import FirstLayer, NetworkSettings, StageContext

VECTOR = "vector"
"""The item part that scorers of item vectors take; if the stage orders by their product, retrieval does, too."""
PART_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
PARTS = "parts"
"""The scorer that runs a stage's graph `value` over what is kept of items."""
Earlier = Literal["score", "rank"]
"""What a stage may see of an earlier one: its logit, or the candidate's soft rank in the request."""


class StageSettings(NetworkSettings):
    """Settings that every stage of the cascade has. A stage model adds its own, and says how it is built."""

    model: str
    cuts: list[str] = []
    """Levels of the log whose candidates this stage cut."""
    keep: PositiveInt
    """Quota: how many candidates pass to the next stage."""
    min_score: float | None = None
    """Candidates that score less, by the score that the answer shows, are cut even if there is room."""
    deadline_ms: PositiveFloat | None = None
    """When a request must be through with this stage, from its arrival; if it is not, the order of the stage before
    stands."""
    value: str
    """By what it orders: an expression over its labels and the data's `columns`, such as `click * bid`."""

    network: ClassVar[str] = ""
    """Its network's class, `MODULE:CLASS`, imported when a network is built: settings are read without torch."""

    def build(self, layout: Layout) -> object:
        """Build the network, a `StageModel`, from these settings and the layout, by torch's generator of weights."""
        return resolve_name(self.network)(self, layout)

    def check(self, context: StageContext) -> None:
        """Raise ConfigError, which begins with the key, if the settings contradict the rest of the config."""
        super().check(context)
        key, data, before = context.key, context.data, context.before
        for level in self.cuts:
            require_known(level, data.levels, f"{key}.cuts", "level", "data.levels")
        if not before and self.deadline_ms is not None:
            raise ConfigError(
                f"{key}.deadline_ms: the first stage, '{self.name}', has no other order; drop it"
            )
        if before and self.keep > (quota := before[last := list(before)[-1]]):
            raise ConfigError(
                f"{key}.keep: '{self.name}' would keep {self.keep} of the {quota} that "
                f"'{last}' leaves it; quotas fall along the cascade"
            )
        self.ordering(data.columns)
        self._check_earlier(context)

    def _check_earlier(self, context: StageContext) -> None:
        """Raise ConfigError unless the stages that it sees something of come before it, in training as in serving."""
        key = f"{context.key}.from_stages"
        for name, what in self.earlier():
            if name not in context.before:
                raise ConfigError(
                    f"{key}: '{name}' is no stage before '{self.name}'; "
                    f"there are {', '.join(context.before) or 'none'}"
                )
            if what == "rank" and name != (first := next(iter(context.before))):
                raise ConfigError(
                    f"{key}: '{name}' ranks only what '{first}' keeps, yet all candidates in training: "
                    f"its rank would mean two things; write {name}.score"
                )
            if context.last_first:
                raise ConfigError(
                    f"{key}: '{name}' trains after '{self.name}' in train.mode: separate, where the last stage is "
                    "first; write joint or alternate"
                )

    @property
    def scorer(self) -> str:
        """The online scorer that serves the stage, of `corank.funnel.stage_scorer.SCORERS`."""
        return "graph"

    @property
    def item_parts(self) -> tuple[str, ...]:
        """What serving computes of an item ahead of requests: outputs of the graph `item`, kept with every item."""
        return ()

    @property
    def has_vectors(self) -> bool:
        """Whether serving keeps a vector with every item."""
        return VECTOR in self.item_parts

    @property
    def orders_by_product(self) -> bool:
        """Whether the product of a query's vector and an item's orders candidates: for retrieval, in-batch losses."""
        return self.has_vectors

    def earlier(self) -> list[tuple[str, Earlier]]:
        """What the stage sees of earlier ones: stage and what of it."""
        return []

    @property
    def extras(self) -> tuple[str, ...]:
        """What the network gives to losses in `StageOutput.extras`: names, each of which some loss must read."""
        return ()

    def counted(self) -> list[str]:
        """Matches of query and item that the scorer counts for every candidate."""
        return []

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """The first layers; one over all features unless the stage model says otherwise."""
        return [FirstLayer(frozenset(schema.inputs()), 1)]

    def scale_widths(self, factor: float) -> Self:
        """The same stage with layers `factor` times as wide; itself if it has no widths."""
        return self

    def in_role_of(self, stage: "StageSettings") -> "StageSettings":
        """This stage model, with its layers, in the role of another stage, whose main label it learns.

        Name, quota and training settings are the other stage's. Raises ConfigError if the settings do not go together.
        """
        if type(stage) is type(self):
            return stage
        labels = {"labels": [stage.main]} if "labels" in type(self).model_fields else {"label": stage.main}
        values = self.model_dump(by_alias=True) | labels | role_of(stage)
        return validate(type(self), values, f"stages.{stage.name}")

    def ordering(self, columns: Collection[str]) -> Formula:
        """Its value, parsed. Raises ConfigError, which names the key, if it is not of its labels and `columns`."""
        key = f"stages.{self.name}.value"
        try:
            value = Formula.parse(self.value, [*self.labels, *columns])
        except ValueError as error:
            raise ConfigError(f"{key}: {error} (labels of the stage, and data.columns)") from None
        if not set(value.names) & set(self.labels):
            raise ConfigError(f"{key}: {self.value!r} names none of the labels {', '.join(self.labels)}")
        return value

    @property
    def main(self) -> str:
        """The label that its value names first: whose positives it is evaluated by, and that later stages see."""
        if self.value in self.labels:
            return self.value
        return next(name for name in Formula.parse(self.value).names if name in self.labels)


class SingleLabelSettings(StageSettings):
    """Settings of a stage that predicts one label, and orders by it unless its `value` says otherwise."""

    label: str = "click"
    """What it predicts."""

    @property
    def labels(self) -> Sequence[str]:
        """The label alone."""
        return [self.label]

    @model_validator(mode="before")
    @classmethod
    def _order_by_label(cls, value: Any) -> Any:
        return {"value": value.get("label", "click")} | value if isinstance(value, dict) else value


def role_of(stage: StageSettings) -> dict[str, Any]:
    """The settings that any stage model has, for one that learns the main label alone."""
    common = stage.model_dump(include=set(StageSettings.model_fields) - {"model"})
    others = set(stage.labels) - {stage.main}
    return common | {"value": stage.main if others & set(Formula.parse(stage.value).names) else stage.value}


def _check(what: str, part: Any) -> None:
    """Raise PluginError if a part is not the settings of a stage model."""
    check_class(what, part, StageSettings)
    if part.build is StageSettings.build and not part.network:
        raise PluginError(f"{what}: {part.__name__} must define network, or build")
    if "labels" not in part.model_fields and not hasattr(part, "labels"):
        raise PluginError(f"{what}: {part.__name__} must have `labels`, a field or a property")


STAGE_MODELS = Registry[type[StageSettings]]("stage model", "corank.stages", "corank.models.settings", _check)
"""Stage models by the name that a config gives under `model:`."""
Stage = Annotated[StageSettings, *by_name(STAGE_MODELS, "model")]
"""A stage of the config, read as the stage model that its `model` names."""
