"""Stage models `towers_mlp` and `towers_heads`: towers whose vectors meet in more than a product, by a config."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from corank.features.input_layout import Layout
from corank.models.settings.network import Widths, multiply_widths
from corank.models.settings.stage import STAGE_MODELS
from corank.models.settings.two_tower import TowerPairSettings

if TYPE_CHECKING:
    from corank.models.tower_structures import TowersHeads, TowersMlp


@STAGE_MODELS.register("towers_mlp")
class TowersMlpSettings(TowerPairSettings):
    """Settings of towers whose vectors and their element-wise product enter a hidden layer."""

    model: Literal["towers_mlp"]
    hidden: PositiveInt = 32
    """Units of the layer that both vectors and their product enter."""
    meeting: ClassVar[str] = "number by number"

    def build(self, layout: Layout) -> "TowersMlp":
        """Build the network."""
        from corank.models.tower_structures import TowersMlp

        return TowersMlp(self, layout)

    @property
    def orders_by_product(self) -> bool:
        """It does not: the hidden layer orders, too."""
        return False

    def scale_widths(self, factor: float) -> Self:
        """The same stage, `factor` times as wide."""
        scaled = super().scale_widths(factor)
        return scaled.model_copy(update={"hidden": multiply_widths([self.hidden], factor)[0]})


@STAGE_MODELS.register("towers_heads")
class TowersHeadsSettings(TowerPairSettings):
    """Settings of towers that give several vectors each, heads, which meet by the best item head of a query head."""

    model: Literal["towers_heads"]
    query: Widths = [512, 128, 64, 34]
    """Widths of the query tower, the last of all its heads and the biases."""
    item: Widths = [512, 128, 64, 34]
    """Widths of the item tower, the last that of the query tower."""
    head: PositiveInt = 8
    """Width of a head. The last width is a multiple of it, and two more with biases."""
    meeting: ClassVar[str] = "head by head"

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

    def build(self, layout: Layout) -> "TowersHeads":
        """Build the network."""
        from corank.models.tower_structures import TowersHeads

        return TowersHeads(self, layout)

    @property
    def orders_by_product(self) -> bool:
        """It does not: which heads meet differs from candidate to candidate."""
        return False

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
