"""Settings that the networks of all stages and teachers share, and what they are checked against."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, Self

from annotated_types import Ge, Lt, MinLen
from pydantic import Field, PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Settings, require_known
from corank.features.input_layout import Attended
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

Widths = Annotated[list[PositiveInt], MinLen(1)]
_ATTRIBUTES = """
T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches eval
extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys load_state_dict
modules mtia named_buffers named_children named_modules named_parameters parameters pop register_backward_hook
register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
set_submodule share_memory state_dict to to_empty train training type update values xpu zero_grad
"""
NAMES_OF_TORCH = frozenset(_ATTRIBUTES.split())
"""Attributes of torch's `ModuleDict`, in which networks lie by name, so that no network may have one of them."""


def multiply_widths(widths: Sequence[int], factor: float) -> list[int]:
    """Widths times a factor, 1 at least."""
    return [max(1, int(width * factor)) for width in widths]


@dataclass(frozen=True)
class FirstLayer:
    """A first layer of a network and the features that enter it: what reports know of a network."""

    features: frozenset[str]
    width: int
    """Its outputs."""
    name: str = ""
    """Tells several first layers of one network apart."""


@dataclass(frozen=True)
class StageContext:
    """The rest of the config, as far as a stage or teacher depends on it."""

    key: str
    """Where the stage is in the config, such as `stages.1`; errors begin with it."""
    schema: Schema
    data: DataSettings
    before: Mapping[str, int] = field(default_factory=dict)
    """The stages before it in the cascade, each with its quota; empty for the first stage and for teachers."""
    last_first: bool = False
    """Whether later stages train before earlier ones (`train.mode: separate`)."""

    def require_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless `data.labels` has every label."""
        for label in labels:
            require_known(label, self.data.labels, f"{self.key}.labels", "label", "data.labels")


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
    """One set of tables with all stages that share, or a set of the stage's own, which makes a bundle larger."""
    table_gradient: bool = True
    """Whether what the stage learns reaches the tables; if not, another stage that shares them must train them. false
    on a pre-ranker keeps its many negatives out of the ranker's embeddings."""

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

    @property
    def member_count(self) -> int:
        """As `StageOutput.member_count`: how many predictions learn by themselves; 0 if there is but one."""
        return 0

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
