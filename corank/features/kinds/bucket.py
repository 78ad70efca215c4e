"""`kind: bucket`: a number cut into parts of equal mass, and embedded."""

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import PositiveInt

from corank.core.hash_index import splitmix64
from corank.core.types import Doubles, Hashes
from corank.features.encoding import MISSING, Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, Storage, Use
from corank.features.scale import Bucket, is_number, to_numbers
from corank.features.training_values import TrainingValues


@FEATURE_KINDS.register("bucket")
class BucketFeature(ColumnFeature):
    """A number cut into buckets of about equal mass and embedded, with a row of its own for missing.

    A value of more rows than a bucket holds, such as the 0 of a sparse count, has a bucket of its own.
    """

    kind: Literal["bucket"] = "bucket"
    buckets: PositiveInt = 32
    """How many, at most; each holds about as many training rows."""
    dim: PositiveInt = 16
    """Width of the embedding."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Bucket,)
    uses: ClassVar[frozenset[Use]] = frozenset({"key", "number"})
    network_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    storage: ClassVar[Storage] = "id"

    @property
    def width(self) -> int:
        """The dimension of the embedding."""
        return self.dim

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect numbers."""
        return None if is_number(dtype) else f"numbers, as features.{name} is of kind bucket"

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn the edges."""
        return Bucket.fit(to_numbers(values.sample(), values.name), self.buckets)

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Codes (N,)."""
        assert isinstance(encoder, Bucket)
        return encoder.codes(to_numbers(values, name))

    def keys(self, encoder: Encoder | None, values: pl.Series, name: str) -> Hashes:
        """Hashes of the buckets: (N,)."""
        assert isinstance(encoder, Bucket)
        codes = encoder.codes(to_numbers(values, name))
        hashed = splitmix64(codes.astype(np.uint64))
        hashed[codes == MISSING] = 0
        return hashed

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        """The numbers as they are: (N,)."""
        return to_numbers(values, name)
