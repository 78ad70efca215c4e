"""Stage models `towers_generated`, `towers_mlp` and `towers_heads`: towers that generate vectors, or meet in more than
a product."""

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from corank.features.schema import Schema
from corank.models.settings.network import FirstLayer, Widths, multiply_widths
from corank.models.settings.stage import STAGE_MODELS, StageSettings
from corank.models.settings.two_tower import TowersSettings


@STAGE_MODELS.register("towers_generated")
class GeneratingSettings(TowersSettings):
    """Settings of towers that read what their side imagines the other's vector to be."""

    network: ClassVar[str] = "corank_lab.models.towers_network:GeneratingTowers"
    model: Literal["towers_generated"]  # type: ignore[assignment]
    generated: Widths | None = [64]
    """Hidden widths of a generator a side, which imagines the other side's vector, as loss `mimic` teaches it, for its
    tower to read; none if null."""

    @model_validator(mode="after")
    def _one_query_tower(self) -> Self:
        if self.query_towers and self.generated is not None:
            raise ValueError("generated is of a single query tower; drop it, or query_towers")
        return self

    @property
    def extras(self) -> tuple[str, ...]:
        """What generators imagine, from which they learn."""
        return () if self.generated is None else ("mimics",)

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        """Those of towers, and one a generator, which reads what its tower reads."""
        layers, widths = super().first_layers(schema), self.generated
        if widths is None:
            return layers
        sides = [layer for layer in layers if layer.name in ("query", "item")]
        return [
            *layers,
            *(replace(layer, name=f"{layer.name}_generator", width=widths[0]) for layer in sides),
        ]

    def in_role_of(self, stage: StageSettings) -> StageSettings:
        """As `TowersSettings.in_role_of`, without generators, which need a loss of their own."""
        return super().in_role_of(stage).model_copy(update={"generated": None})

    def scale_widths(self, factor: float) -> Self:
        """The same stage, `factor` times as wide."""
        generated = self.generated and multiply_widths(self.generated, factor)
        return super().scale_widths(factor).model_copy(update={"generated": generated})


class MeetingSettings(GeneratingSettings):
    """Settings of towers whose vectors meet in more than a product: it alone does not order."""

    generated: Widths | None = None
    """As of `towers_generated`; none unless given."""

    @property
    def orders_by_product(self) -> bool:
        """It does not: neither retrieval nor in-batch losses may take the vectors."""
        return False


@STAGE_MODELS.register("towers_mlp")
class TowersMlpSettings(MeetingSettings):
    """Settings of towers whose vectors and their element-wise product enter a hidden layer."""

    network: ClassVar[str] = "corank_lab.models.towers_network:TowersMlp"
    model: Literal["towers_mlp"]  # type: ignore[assignment]
    hidden: PositiveInt = 32
    """Units of the layer that both vectors and their product enter."""

    def scale_widths(self, factor: float) -> Self:
        """The same stage, `factor` times as wide."""
        scaled = super().scale_widths(factor)
        return scaled.model_copy(update={"hidden": multiply_widths([self.hidden], factor)[0]})


@STAGE_MODELS.register("towers_heads")
class TowersHeadsSettings(MeetingSettings):
    """Settings of towers that give several vectors each, heads, which meet by the best item head of a query head."""

    network: ClassVar[str] = "corank_lab.models.towers_network:TowersHeads"
    model: Literal["towers_heads"]  # type: ignore[assignment]
    query: Widths = [512, 128, 64, 34]
    """Widths of the query tower, the last of all its heads and the biases."""
    item: Widths = [512, 128, 64, 34]
    """Widths of the item tower, the last that of the query tower."""
    head: PositiveInt = 8
    """Width of a head. The last width is a multiple of it, and two more with biases."""

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        last = self.item[-1]
        heads, rest = divmod(last - 2 * self.bias, self.head)
        if heads < 1 or rest:
            raise ValueError(
                f"the last width of '{self.name}' must be {'2 more than ' if self.bias else ''}a multiple of "
                f"head, {self.head}; received {last}; write for example {4 * self.head + 2 * self.bias}"
            )
        return self

    def scale_widths(self, factor: float) -> Self:
        """The same stage with hidden layers `factor` times as wide, and as many whole heads as come nearest."""
        scaled, biases = super().scale_widths(factor), 2 * self.bias
        last = max(1, int((self.item[-1] - biases) * factor) // self.head) * self.head + biases
        towers = {
            name: tower.model_copy(update={"widths": tower.widths and [*tower.widths[:-1], last]})
            for name, tower in scaled.query_towers.items()
        }
        sides = {"query": [*scaled.query[:-1], last], "item": [*scaled.item[:-1], last]}
        return scaled.model_copy(update=sides | {"query_towers": towers})
