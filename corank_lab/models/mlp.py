"""Stage model `mlp_lab`: an MLP over every feature with further options, which combine."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Le
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.features.encoding import PLACEMENTS
from corank.features.input_layout import Attended
from corank.features.schema import Schema
from corank.models.settings.mlp import DinSettings, MlpSettings
from corank.models.settings.network import StageContext, multiply_widths
from corank.models.settings.stage import STAGE_MODELS


class PiecewiseNumbers(Settings):
    """Each number as its shares of bins between quantiles of the training rows.

    The share of bin t is clamp((x − b_t) / (b_{t+1} − b_t), 0, 1), b the quantiles of the scaled number x (Gorishniy et
    al. 2022). The edges are fitted before the first step and belong to the weights.
    """

    kind: Literal["piecewise"]
    bins: Annotated[int, Ge(2), Le(256)] = 16
    """Bins of a number, at most: quantiles closer than .01 of the scaled unit are one edge."""
    dim: PositiveInt | None = None
    """Width of an embedding of each number's shares, relu(E p + b); unless given, the shares enter the first layer."""


class PeriodicNumbers(Settings):
    """Each number as sines and cosines of learnt frequencies, embedded."""

    kind: Literal["periodic"]
    frequencies: PositiveInt = 16
    """Of each number."""
    sigma: PositiveFloat = 0.1
    """Standard deviation of the frequencies at first, in periods a scaled unit."""
    dim: PositiveInt = 8
    """Width of each number's embedding, relu(E [sin, cos] + b)."""


Numbers = Annotated[PiecewiseNumbers | PeriodicNumbers, Field(discriminator="kind")]


class GateSettings(Settings):
    """A factor for each feature, learnt of its side's inputs.

    The columns of a feature f are multiplied by 2 σ(V relu(U x + a) + c)_f before the first layer, initially by 1; x
    are all inputs of its side, embedded numbers too. Attention and cross layers read inputs without gates.
    """

    hidden: PositiveInt = 16
    """Width of the layer between a side's inputs and its gates."""


class ExpertSettings(Settings):
    """Experts above the hidden layers, each a layer, which a gate a label mixes: MMoE; with some of its own, PLE.

    An expert is e_j = act(W_j x + b_j) over the last of the `hidden` layers. Label l reads Σ_j g_j e_j with
    g = softmax(G_l x), initially uniform. Sources: Ma et al. 2018; Tang et al. 2020.
    """

    shared: Annotated[int, Ge(1), Le(64)] = 4
    """Experts that all labels mix."""
    own: Annotated[int, Ge(0), Le(64)] = 0
    """Experts besides these that each label alone mixes; of several labels only."""
    width: PositiveInt = 64
    """Of each expert."""
    levels: Annotated[int, Ge(1), Le(8)] = 1
    """Levels of experts, one above the other. Shared experts read what all experts of the level below say, a label's
    own ones and its gate its mixture there."""

    @model_validator(mode="after")
    def _mix_several(self) -> Self:
        if self.shared + self.own < 2:
            raise ValueError(
                "of one expert there is nothing to mix; write `shared: 2` or more, or `own`; received shared: 1"
            )
        return self


class SequenceEncoderSettings(Settings):
    """Causal self-attention over the events of a history (HSTU), computed once a request for all its candidates.

    A layer is x + f₂(norm(A V) ∘ U) with U, Q, K, V = silu(f₁(norm(x))) and A = silu(Q Kᵀ + b), b a number for each
    distance of two events (Zhai et al. 2024). Each event also gets a vector for its position, counted from the newest,
    and with `ages` one for its age s at the request, linear in log₂(1 + s seconds) between knots four-fold apart. The
    stage's `dropout` applies in the layers.
    """

    layers: Annotated[PositiveInt, Le(16)] = 2
    """Layers, one on the other."""
    heads: PositiveInt = 2
    """Attentions of each layer, side by side."""
    dim: PositiveInt = 16
    """Width of a head."""
    ages: bool = False
    """Whether the time between an event and the request counts; a request must give the times of its events then."""


class EncodedDinSettings(DinSettings):
    """Attention over the items of a history, which may be encoded first."""

    encoder: SequenceEncoderSettings | None = None
    """Encodes the events before they are attended to; none unless given."""


@STAGE_MODELS.register("mlp_lab")
class MlpLabSettings(MlpSettings):
    """Settings of an MLP over all features, as a stage, with further options."""

    network: ClassVar[str] = "corank_lab.models.mlp_network:MlpLab"
    model: Literal["mlp_lab"]  # type: ignore[assignment]
    din: EncodedDinSettings | None = None
    """Attention over a history."""
    numbers: Numbers | None = None
    """What it reads of numbers besides their scaled values; nothing unless given."""
    gates: GateSettings | None = None
    """A factor for each feature, learnt of its side's inputs; none unless given."""
    members: Annotated[int, Ge(2), Le(64)] | None = None
    """Predictions of shared weights, averaged; one unless given. Member i's layers are s_i ∘ (W (r_i ∘ x)) + b_i with W
    shared by all (BatchEnsemble, TabM). A loss is the mean over members; the logit is of their mean probability."""
    experts: ExpertSettings | None = None
    """Experts that labels share, between hidden layers and outputs; none unless given."""

    @property
    def member_count(self) -> int:
        """How many members there are."""
        return self.members or 0

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

    def attended(self, schema: Schema, key: str = "stages") -> Attended | None:
        """What `din` attends to, with ages if its encoder reads them."""
        attended = super().attended(schema, key)
        if attended is None or self.din is None or (encoder := self.din.encoder) is None:
            return attended
        history, key = schema.histories()[attended.history], f"{key}.{self.name}.din.encoder"
        if encoder.ages and not history.timed:
            raise ConfigError(
                f"{key}.ages: the events of '{attended.history}' have no times; name the column that lists them as "
                f"features.{attended.history}.times, or drop it"
            )
        if history.last == 1:
            raise ConfigError(
                f"{key}: '{attended.history}' keeps one event (last: 1), which has none before it; drop it"
            )
        return replace(attended, ages=encoder.ages)

    def scale_widths(self, factor: float) -> Self:
        """The same stage with hidden layers, and experts, `factor` times as wide."""
        scaled, experts = super().scale_widths(factor), self.experts
        if experts is None:
            return scaled
        (width,) = multiply_widths([experts.width], factor)
        return scaled.model_copy(update={"experts": experts.model_copy(update={"width": width})})
