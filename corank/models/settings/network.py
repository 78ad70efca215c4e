"""Settings that the networks of all stages and teachers share."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import Field, PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.features.input_layout import Attended
from corank.features.schema import PLACEMENTS, Schema
from corank.models.settings.dcn import DcnSettings
from corank.models.settings.din import DinSettings
from corank.models.settings.inputs.gates import GateSettings
from corank.models.settings.inputs.numbers import Numbers
from corank.models.settings.mixtures.experts import ExpertSettings
from corank.models.settings.stage_context import StageContext

Widths = Annotated[list[PositiveInt], MinLen(1)]


def multiply_widths(widths: Sequence[int], factor: float) -> list[int]:
    """Widths times a factor, 1 at least."""
    return [max(1, int(width * factor)) for width in widths]


@dataclass(frozen=True)
class FirstLayer:
    """A first layer of a network and the features that enter it: what reports and cost estimates know of a network."""

    features: frozenset[str]
    width: int
    """Its outputs."""
    name: str = ""
    """Tells several first layers of one network apart."""
    online: bool = True
    """Whether it runs for a request, rather than for an item ahead of all requests."""
    then: tuple[int, ...] = ()
    """The outputs of the layers that follow it, one after another."""


class NetworkSettings(Settings):
    """Settings that every stage and every teacher has."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """By which losses, `train` and metrics know it."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """After each hidden layer."""
    normalisation: Literal["none", "layer"] = "none"
    """After the first linear layer. Never by batch: distinct items and candidates differ in their statistics."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the hidden units that a training step leaves out."""
    embeddings: Literal["shared", "own"] = "shared"
    """One set of tables with all stages that share, or a set of the stage's own."""
    table_gradient: bool = True
    """Whether what the stage learns reaches the tables; if not, another stage that shares them must train them."""

    # a field of the subclass or a property of it: declared for type checkers alone, since pydantic lets no field
    # replace a property
    if TYPE_CHECKING:

        @property
        def labels(self) -> Sequence[str]:
            """The labels that the network predicts."""

    @property
    def fitted(self) -> bool:
        """Whether it is fitted to rows of the log before training, and no loss trains it."""
        return False

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config."""
        context.require_labels(self.labels)
        self.attended(context.schema, context.key.partition(".")[0])

    @abstractmethod
    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """The first layers, and the features that enter each."""

    def input_features(self, schema: Schema) -> dict[str, list[str]]:
        """The features of each first layer, in the order of the schema, by name, such as `rank` or `prerank.query`."""
        layers = {
            f"{self.name}.{layer.name}" if layer.name else self.name: layer
            for layer in self.first_layers(schema)
        }
        return {
            name: [feature for feature in schema.features if feature in layer.features]
            for name, layer in layers.items()
        }

    def attended(self, schema: Schema, key: str = "stages") -> Attended | None:
        """What the network attends to, if it attends to a history.

        Args:
            key: begins an error's text.

        Raises:
            ConfigError: if that is not in the schema.
        """
        return None

    def logged_inputs(self, schema: Schema) -> list[str]:
        """What it reads of a pair from the log, so that a network that scores a drawn pair would have to guess it.

        Numbers are left out: a missing one is the mean. The row of a missing id has learnt nothing where none is
        missing.
        """
        read = {feature for layer in self.first_layers(schema) for feature in layer.features}
        logged = schema.columns("cross")
        return [name for name, feature in logged.items() if name in read and feature.storage != "number"]

    def without_features(self, names: Collection[str]) -> Self:
        """The same network where some features are no longer declared."""
        return self


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
    numbers: Numbers | None = None
    """What it reads of numbers besides their scaled values; nothing unless given."""
    gates: GateSettings | None = None
    """A factor for each feature, learnt of its side's inputs; none unless given."""
    members: Annotated[int, Ge(2), Le(64)] | None = None
    """Predictions of shared weights, averaged; one unless given."""
    experts: ExpertSettings | None = None
    """Experts that labels share, between hidden layers and outputs; none unless given."""

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as `numbers` where there is none."""
        super().check(context)
        if self.numbers is not None and not any(context.schema.row_features(p).width for p in PLACEMENTS):
            raise ConfigError(f"{context.key}.numbers: no feature is a number; drop it")
        if self.experts is not None and self.members is not None:
            raise ConfigError(f"{context.key}.experts: not beside `members`; drop one of the two")
        if self.experts is not None and self.experts.own and len(self.labels) == 1:
            raise ConfigError(
                f"{context.key}.experts.own: '{self.labels[0]}' is the only label, so that all experts are its own; "
                f"write 0, and as many `shared` ones as you want; received {self.experts.own}"
            )

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """One first layer, which every feature enters."""
        then = (*self.hidden[1:], len(self.labels))
        return [FirstLayer(frozenset(schema.inputs()), self.hidden[0], then=then)]

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
        key, history = f"{key}.{self.name}.din", schema.histories().get(self.din.history)
        if history is None:
            raise ConfigError(
                f"{key}.history: no history '{self.din.history}'; "
                f"histories are {', '.join(schema.histories()) or 'not declared'}"
            )
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
        ages = self.din.encoder is not None and self.din.encoder.ages
        if ages and not history.timed:
            raise ConfigError(
                f"{key}.encoder.ages: the events of '{self.din.history}' have no times; name the column that lists "
                f"them as features.{self.din.history}.times, or drop it"
            )
        if self.din.encoder is not None and history.last == 1:
            raise ConfigError(
                f"{key}.encoder: '{self.din.history}' keeps one event (last: 1), which has none before it; drop it"
            )
        return Attended(self.din.history, (*of, *self.din.attributes), ages)


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
