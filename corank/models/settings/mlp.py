"""Settings of an MLP over every feature: stage model `mlp`, and teachers."""

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import MinLen
from pydantic import PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings, describe_unknown, require_known, validate
from corank.features.input_layout import Attended
from corank.features.schema import Schema
from corank.models.settings.network import FirstLayer, NetworkSettings, StageContext, Widths, multiply_widths
from corank.models.settings.stage import PARTS, STAGE_MODELS, Earlier, StageSettings, role_of

ITEM = "item"
"""The item part with the first layer's sums."""
TARGET = "target"
"""The item part that attention over a history reads."""


class DcnSettings(Settings):
    """Cross layers next to the deep ones."""

    layers: PositiveInt = 2
    """Cross layers, one after another."""
    rank: PositiveInt | None = None
    """Width of a bottleneck in each layer's W × W matrix; none unless given."""


class DinSettings(Settings):
    """Attention over the items of a history."""

    history: str
    """The feature whose items are attended to."""
    attributes: list[str] = []
    """Item features that take part besides the id, such as the brand, and of the events, such as the dwell."""
    hidden: PositiveInt = 36
    """Width of the layer that weighs an event for a candidate."""


class LayerSettings(NetworkSettings):
    """Settings of an MLP over all features, be it a stage or a teacher."""

    hidden: Widths = [128, 128, 128]
    """Widths of the hidden layers."""
    labels: Annotated[list[str], MinLen(1)] = ["click"]
    """An output each over the shared layers."""
    din: DinSettings | None = None
    """Attention over a history."""
    dcn: DcnSettings | None = None
    """Cross layers next to the deep ones."""

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """One first layer, which every feature enters."""
        return [FirstLayer(frozenset(schema.inputs()), self.hidden[0])]

    def without_features(self, names: Collection[str]) -> Self:
        """The same network without attention to some features; without any if its history is gone."""
        din = self.din
        if din is None:
            return self
        kept = din.model_copy(update={"attributes": [name for name in din.attributes if name not in names]})
        return self.model_copy(update={"din": None if din.history in names else kept})

    def attended(self, schema: Schema, key: str = "stages") -> Attended | None:
        """What `din` attends to. Raises ConfigError if that is not in the schema."""
        if self.din is None:
            return None
        key, histories = f"{key}.{self.name}.din", schema.histories()
        require_known(self.din.history, histories, f"{key}.history", "history", "histories")
        history = histories[self.din.history]
        if history.values:
            raise ConfigError(
                f"{key}.history: '{self.din.history}' lists values of '{history.values}', which are no items to attend "
                "to; name a history of items"
            )
        beside = set(schema.parallels_of(self.din.history))
        for name in self.din.attributes:
            if name in beside:
                continue
            feature = schema.columns("item").get(name)
            if feature is None or feature.storage == "number" or not feature.is_input:
                raise ConfigError(
                    f"{key}.attributes: '{name}' is no item feature of kind id, ids, bucket or vector that is an input"
                    f", and no list that is parallel_to '{self.din.history}'"
                )
        of = (history.of,) if schema.features[history.of].is_input else ()
        if not of and beside.issuperset(self.din.attributes):
            raise ConfigError(
                f"{key}.attributes: '{history.of}' is no input, so that nothing of the items of '{self.din.history}' "
                "would be attended to; name item features"
            )
        return Attended(self.din.history, (*of, *self.din.attributes))


class TeacherSettings(LayerSettings):
    """Settings of a teacher."""

    scores: Annotated[list[str], MinLen(1)]
    """Logged scores (`data.scores`) that it sees besides every feature; a missing one counts as 0, and is marked."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as a score that is not logged."""
        super().check(context)
        for score in self.scores:
            if score not in context.data.scores:
                raise ConfigError(
                    f"{context.key}.scores: {describe_unknown(score, context.data.scores)}, as data.scores names them"
                )

    def logged_inputs(self, schema: Schema) -> list[str]:
        """Its scores, too: what production never scored has none."""
        return [*self.scores, *super().logged_inputs(schema)]


@STAGE_MODELS.register("mlp")
class MlpSettings(LayerSettings, StageSettings):
    """Settings of an MLP over all features, as a stage."""

    network: ClassVar[str] = "corank.models.mlp:Mlp"
    model: Literal["mlp"] = "mlp"
    value: str = "click"
    from_stages: list[str] = []
    """What it sees of earlier stages: `STAGE.score` (the logit) or `STAGE.rank` (the soft rank in the
    request, of the first stage only); not in `train.mode: separate`."""

    ahead: bool = True
    """Whether serving computes ahead of requests what the stage reads of items alone, and keeps it with every item: a
    number for each unit of the first layer, and what `din` attends to. The scores are the same, and a
    request costs less; a bundle takes more space. With `dcn`, whose layers read items whole, nothing is ahead."""

    @property
    def scorer(self) -> str:
        """The scorer of item parts, or the one that runs the whole network."""
        return PARTS if self.item_parts else "graph"

    @property
    def item_parts(self) -> tuple[str, ...]:
        """The first layer's sums over an item, and what attention reads of it."""
        if not self.ahead or self.dcn is not None:
            return ()
        return (ITEM,) if self.din is None else (ITEM, TARGET)

    def earlier(self) -> list[tuple[str, Earlier]]:
        """What it sees of earlier stages: stage and what of it. Raises ConfigError if it is neither score nor rank."""
        sources: list[tuple[str, Earlier]] = []
        for text in self.from_stages:
            stage, _, what = text.rpartition(".")
            key = f"stages.{self.name}.from_stages"
            if stage and what == "place":
                raise ConfigError(f"{key}: `place` is now `rank`; write {stage}.rank; received {text!r}")
            if not stage or what not in ("score", "rank"):
                raise ConfigError(f"{key}: expected STAGE.score or STAGE.rank; received {text!r}")
            sources.append((stage, "score" if what == "score" else "rank"))
        return sources

    def in_role_of(self, stage: StageSettings) -> StageSettings:
        """An MLP of the same widths in the role of another stage; an MLP stays as it is."""
        if isinstance(stage, MlpSettings):
            return stage
        layers = {"hidden": self.hidden, "labels": [stage.main]}
        return validate(MlpSettings, {"model": "mlp"} | layers | role_of(stage), f"stages.{stage.name}")

    def scale_widths(self, factor: float) -> Self:
        """The same stage with hidden layers `factor` times as wide."""
        return self.model_copy(update={"hidden": multiply_widths(self.hidden, factor)})
