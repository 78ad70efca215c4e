"""`kind: id`: one categorical value, embedded."""

from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import PositiveInt, model_validator

from corank.core.types import Hashes
from corank.features.encoding import Encoded, Encoder, Hash, Vocabulary, hash_values
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, Side, Storage, Use
from corank.features.training_values import TrainingValues, VocabularySettings, fit_codes


def check_filter(side: Side, filter_by: bool) -> None:
    """Raise ValueError if `filter` is set on a feature that is not item-side."""
    if filter_by and side != "item":
        raise ValueError(f"filter is for retrieval, which knows items alone; this one's side is {side}")


@FEATURE_KINDS.register("id")
class IdFeature(VocabularySettings, ColumnFeature):
    """One categorical value, embedded. A vocabulary of the training rows, or a hash into `hash` rows."""

    kind: Literal["id"] = "id"
    dim: PositiveInt = 16
    """Width of the embedding."""
    filter: bool = False
    """Requests may filter retrieval by it; for item features."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Vocabulary, Hash)
    uses: ClassVar[frozenset[Use]] = frozenset({"id", "key"})
    network_settings: ClassVar[frozenset[str]] = frozenset({"dim"} | VocabularySettings.vocabulary_settings)
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    storage: ClassVar[Storage] = "id"

    @model_validator(mode="after")
    def _check_filter(self) -> Self:
        check_filter(self.side, self.filter)
        return self

    @property
    def width(self) -> int:
        """The dimension of the embedding."""
        return self.dim

    @property
    def filterable(self) -> bool:
        """Whether `filter` is set."""
        return self.filter

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect whole numbers or text."""
        unfit = dtype.is_nested() or dtype.is_temporal()
        return f"whole numbers or text, as features.{name} is of kind id" if unfit else None

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn a vocabulary, or whether values are text if they are hashed, or no input."""
        return fit_codes(values, self, self.hash if self.input else 1)

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Codes (N,)."""
        assert isinstance(encoder, Vocabulary | Hash)
        return encoder.codes(values, name)

    def keys(self, encoder: Encoder | None, values: pl.Series, name: str) -> Hashes:
        """Hashes of the values, known to the vocabulary or not: (N,)."""
        return hash_values(values, name)
