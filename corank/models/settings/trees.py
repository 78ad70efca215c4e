"""Stage model `trees`: what a config says of boosted trees that are a stage."""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import PositiveInt

from corank.features.input_layout import Layout
from corank.models.settings.boosting import BoostingSettings
from corank.models.settings.stage import STAGE_MODELS, StageSettings

if TYPE_CHECKING:
    from corank.models.trees import Trees


@STAGE_MODELS.register("trees")
class TreesSettings(BoostingSettings, StageSettings):
    """Gradient-boosted trees as a stage, fitted to the exposed training rows before the other stages train.

    No loss trains them and none reads them. They read ids of at most 5,000 values, numbers, and how long lists are;
    vectors and other ids are left out. Training needs the extra `trees`; serving needs nothing more.
    """

    model: Literal["trees"] = "trees"
    value: str = "click"
    labels: Annotated[list[str], MinLen(1)] = ["click"]
    """What they predict, each by trees of its own."""
    trees: Annotated[int, Ge(1), Le(10_000)] = 500
    """How many, at most."""
    patience: PositiveInt = 30
    """Trees without a better cross-entropy on the validation split after which no more are grown; the best number is
    kept. All are grown if there is no such split."""
    embeddings: Literal["own"] = "own"
    """Tables of their own, whose rows hold the codes of values in place of embeddings."""

    @property
    def fitted(self) -> bool:
        """Trees are."""
        return True

    def build(self, layout: Layout) -> "Trees":
        """Build trees that are not grown."""
        from corank.models.trees import Trees

        return Trees(self, layout)
