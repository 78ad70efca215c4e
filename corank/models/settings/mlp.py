"""Stage model `mlp`: settings of an MLP over every feature."""

from typing import TYPE_CHECKING, Literal, Self

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.features.input_layout import Layout
from corank.models.settings.network import LayerSettings, multiply_widths
from corank.models.settings.stage import PARTS, STAGE_MODELS, Earlier, StageSettings, role_of

if TYPE_CHECKING:
    from corank.models.mlp import Mlp

ITEM = "item"
"""The item part with the first layer's sums."""
TARGET = "target"
"""The item part that attention over a history reads."""


@STAGE_MODELS.register("mlp")
class MlpSettings(LayerSettings, StageSettings):
    """Settings of an MLP over all features, as a stage."""

    model: Literal["mlp"] = "mlp"
    value: str = "click"
    from_stages: list[str] = []
    """What it sees of earlier stages: `STAGE.score` (the logit) or `STAGE.rank` (the soft rank in the
    request, of the first stage only); not in `train.mode: separate`."""

    ahead: bool = True
    """Whether serving computes ahead of requests what the stage reads of items alone, and keeps it with every item: a
    number for each unit of the first layer, of all members, and what `din` attends to. The scores are the same, and a
    request costs less; a bundle takes more space. With `dcn`, whose layers read items whole, nothing is ahead."""

    def build(self, layout: Layout) -> "Mlp":
        """Build the network."""
        from corank.models.mlp import Mlp

        return Mlp(self, layout, self.from_stages, ahead=bool(self.item_parts))

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
                raise ConfigError(
                    f"{key}: `place` is now called `rank`; write {stage}.rank; received {text!r}"
                )
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
        """The same stage with hidden layers, and experts, `factor` times as wide."""
        experts = self.experts
        if experts is not None:
            (width,) = multiply_widths([experts.width], factor)
            experts = experts.model_copy(update={"width": width})
        return self.model_copy(update={"hidden": multiply_widths(self.hidden, factor), "experts": experts})
