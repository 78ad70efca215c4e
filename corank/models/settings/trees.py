"""Stage model `trees`: settings of boosted trees, as a stage or a teacher."""

from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import PositiveFloat, PositiveInt, model_validator

from corank.core.settings import Settings
from corank.models.settings.stage import STAGE_MODELS, StageSettings

MOST_CODES = 32
"""Columns of at most so many codes are categories; of others the code is a number, by falling frequency."""
LEFT_OUT = 5_000
"""Ids of more codes are left out: trees cannot use them."""


class BoostingSettings(Settings):
    """Settings of boosted trees for a binary label."""

    trees: Annotated[int, Ge(1), Le(10_000)] = 150
    """How many."""
    leaves: Annotated[int, Ge(2), Le(1024)] = 31
    """Of a tree, at most."""
    lr: PositiveFloat = 0.05
    """Factor of each tree's values."""
    min_rows: PositiveInt = 50
    """Training rows of a leaf, at least."""
    columns: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the columns that a tree may split by, drawn for each."""


@STAGE_MODELS.register("trees")
class TreesSettings(BoostingSettings, StageSettings):
    """Gradient-boosted trees as a stage, fitted to the exposed training rows before the other stages train.

    No loss trains them and none reads them; a later stage may, by `from_stages`. They read ids of at most 5,000 values,
    as categories if there are at most 32, numbers, and how long lists are; vectors and other ids are left out. Training
    needs the extra `trees`; serving needs nothing more.
    """

    network: ClassVar[str] = "corank.models.trees:Trees"
    fitted: ClassVar[bool] = True
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

    @model_validator(mode="after")
    def _refuse_idle(self) -> Self:
        """Raise ValueError for a setting of layers and gradients, which trees have not."""
        for name in ("activation", "normalisation", "dropout", "table_gradient"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on trees, which are fitted whole; drop it")
        return self
