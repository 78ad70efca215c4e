"""`kind: ids`: several categorical values, their embeddings pooled; of a list column or of the user's history."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from corank.core.errors import DataError
from corank.core.ragged import Ragged
from corank.core.types import Ints
from corank.features.counts.growth import VocabularySettings
from corank.features.encoding import SAMPLED, Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, Storage, Use
from corank.features.histories.history_settings import HistorySettings
from corank.features.kinds.id import check_filter
from corank.features.training_values import TrainingValues, fit_codes
from corank.features.vocabulary import Hash, Vocabulary, hash_values

DIM = 16
"""The dimension of an embedding, unless a feature says otherwise."""


@FEATURE_KINDS.register("ids")
class IdsFeature(HistorySettings):
    """Several categorical values, their embeddings pooled: a list column, or a history and what belongs to it."""

    kind: Literal["ids"] = "ids"
    pool: Literal["mean", "sum"] = "mean"
    """How the embeddings of a list become one."""
    filter: bool = False
    """Requests may filter retrieval by any of its values; for item features."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Vocabulary, Hash)
    uses: ClassVar[frozenset[Use]] = frozenset({"list"})
    network_settings: ClassVar[frozenset[str]] = frozenset(
        {"dim", "pool"} | VocabularySettings.vocabulary_settings
    )
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim", "pool"})

    @property
    def storage(self) -> Storage:
        """A list of codes."""
        return "list"

    @property
    def width(self) -> int:
        """The dimension of the embedding."""
        return self.dim or DIM

    @property
    def averages(self) -> bool:
        """Whether the embeddings are averaged."""
        return self.pool == "mean"

    @property
    def filterable(self) -> bool:
        """Whether `filter` is set."""
        return self.filter

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_filter(self.side, self.filter)
        return self

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect lists, or text if there is a separator."""
        if (self.separator is not None) != dtype.is_nested():
            return None
        expected = "text, as it has a separator" if self.separator else "lists, as it has no separator"
        return f"{expected} in features.{name}"

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn a vocabulary of the single values, or whether they are text if they are hashed, or no input."""
        value = pl.col("value")
        if self.separator is not None:
            texts = value.cast(pl.String).str.split(self.separator)
            value = texts.list.eval(pl.element().str.strip_chars()).list.filter(pl.element() != "")
        return fit_codes(values.flatten(value), self, self.hash if self.input else 1)

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """N lists of codes, the first `last` values of each."""
        assert isinstance(encoder, Vocabulary | Hash)
        length, flat = split(values, self.separator, name)
        return Ragged.from_lengths(length, encoder.codes(flat, name)).first(self.last)

    def lists(self, values: pl.Series, name: str) -> Ragged:
        """N lists of hashes, of the first `last` values of each."""
        length, flat = split(values, self.separator, name)
        return Ragged.from_lengths(length, hash_values(flat, name)).first(self.last)

    def sample(self, encoder: Encoder | None, rng: np.random.Generator) -> list[Any] | None:
        """Draw a short list of values."""
        drawn = encoder.sample(rng, SAMPLED) if encoder else []
        return drawn or None

    def dtype(self, encoder: Encoder | None) -> pl.DataType | None:
        """Text if there is a separator, else lists."""
        if self.separator is not None:
            return pl.String()
        single = super().dtype(encoder)
        return None if single is None else pl.List(single)

    def to_table(self, value: Any) -> Any:
        """Join a list by the separator, if there is one: a request may list what tables write as one text."""
        if isinstance(value, list) and self.separator is not None:
            return self.separator.join(str(one) for one in value if one is not None)
        return value


def split(values: pl.Series, separator: str | None, name: str) -> tuple[Ints, pl.Series]:
    """Split lists or text into lengths (N,) and single values, one after another, without nulls and blanks.

    By Arrow's functions: polars expressions cost ten times as much on a request's few rows.
    """
    if values.null_count() == len(values):
        return np.zeros(len(values), dtype=np.int32), pl.Series([], dtype=pl.Null)
    if separator is not None and not values.dtype.is_nested():
        array = pc.split_pattern(values.cast(pl.String).to_arrow(), separator)
    elif isinstance(values.dtype, pl.List | pl.Array):
        array = values.to_arrow()
    else:
        raise DataError(
            f"feature '{name}': expected lists; received {values.drop_nulls()[0]!r} ({values.dtype})"
        )
    length = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int32)
    flat = array.flatten()
    if separator is not None:
        if pa.types.is_nested(flat.type):
            raise DataError(f"feature '{name}': expected texts; received {flat[0].as_py()!r}")
        # a request may list what the tables write as one text, numbers included
        flat = pc.utf8_trim_whitespace(flat.cast(pa.large_string()))
        keep = pc.not_equal(flat, "").fill_null(False)
    elif flat.null_count:
        keep = flat.is_valid()
    else:
        return length, pl.Series(flat)
    row = np.repeat(np.arange(len(length)), length)[keep.to_numpy(zero_copy_only=False)]
    return np.bincount(row, minlength=len(length)).astype(np.int32), pl.Series(flat.filter(keep))
