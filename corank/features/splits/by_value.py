"""Splits by a value of the request: a column of the log, or the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import polars as pl
from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from corank.core.hash_index import splitmix64
from corank.features.splits.split_rule import SPLITS, Instant, SplitColumns, SplitRule
from corank.features.vocabulary import hash_values


def _texts(value: object) -> object:
    """Values of a column as text, as rows are compared."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | bool) for one in values):
        raise PydanticCustomError("texts", "expected texts or whole numbers, the values of the column")
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in values]


Values = Annotated[list[str], BeforeValidator(_texts), Field(min_length=1)]
"""Values of a column, as text."""


class ColumnSplit(SplitRule):
    """A column of the log has it: `train`, `valid`, `test`, or the values that each split names; null for none."""

    column: str
    """A column of the log."""
    train: Values = ["train"]
    """Its values that train."""
    valid: Values | None = ["valid"]
    """Its values that validate; null for no such split."""
    test: Values | None = ["test"]
    """Its values that test; null for no such split."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        listed = self.values
        twice = sorted({value for value in listed if listed.count(value) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is named by two splits; each value belongs to one")
        return self

    @property
    def names(self) -> Sequence[str]:
        """Those that name values."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    @property
    def source(self) -> str | None:
        """The column."""
        return self.column

    @property
    def values(self) -> Sequence[str]:
        """Those of all splits."""
        return [value for name in self.names for value in getattr(self, name)]

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Compare the column's value, as text."""
        assert rows.value is not None
        text = rows.value.cast(pl.String)
        return {name: text.is_in(getattr(self, name)).fill_null(False) for name in self.names}

    def describe(self) -> str:
        """The column and its values."""
        named = "; ".join(f"{name}: {', '.join(getattr(self, name))}" for name in self.names)
        return f"column '{self.column}', {named}"


@dataclass(frozen=True)
class UserDraw:
    """Draws a number in [0, 1) for each user, the same for the same seed."""

    seed: int

    def __call__(self, users: pl.Series) -> pl.Series:
        """Draw: (N,) ids → (N,)."""
        keys = hash_values(users, "split")
        drawn = splitmix64(keys ^ splitmix64(np.array([self.seed], dtype=np.uint64)))
        return pl.Series(users.name, (drawn >> np.uint64(11)) * 2.0**-53)


class UserSplit(SplitRule):
    """Users at random: all requests of a user are in one split."""

    by: Literal["user"]
    """What is drawn at random."""
    valid: float = Field(gt=0, lt=1)
    """The share of the users that validate."""
    test: float | None = Field(None, gt=0, lt=1)
    """The share that test; there is no test split unless given."""
    seed: NonNegativeInt = Field(0, lt=2**63)
    """Another seed draws other users."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.valid + (self.test or 0) >= 1:
            raise ValueError("valid and test are shares of the users; together they must leave some to train")
        return self

    @property
    def names(self) -> Sequence[str]:
        """Those that have a share."""
        return SPLITS if self.test is not None else SPLITS[:2]

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Draw by a hash of the user."""
        drawn = rows.user.map_batches(UserDraw(self.seed), return_dtype=pl.Float64, is_elementwise=True)
        test = self.test or 0.0
        conditions: dict[str, pl.Expr] = {
            "train": drawn >= self.valid + test,
            "valid": drawn.is_between(test, self.valid + test, closed="left"),
        }
        return conditions if self.test is None else conditions | {"test": drawn < test}

    def describe(self) -> str:
        """The shares."""
        return f"by user, valid {self.valid:g}" + ("" if self.test is None else f", test {self.test:g}")
