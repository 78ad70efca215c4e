"""How gradient-boosted trees are grown, be they a teacher or a stage."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import PositiveFloat, PositiveInt

from corank.core.settings import Settings

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
