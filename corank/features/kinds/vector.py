"""`kind: vector`: a vector of content, such as of a text or a picture, as another model made it."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import model_validator

from corank.core.errors import ConfigError, DataError, RowError
from corank.core.ragged import Vectors
from corank.core.types import Floats
from corank.features.encoding import Encoded, Encoder, VectorShape
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, FeatureSet, Storage, Use
from corank.features.log_schema import DataSettings

LARGEST = float(np.finfo(np.float16).max)
"""Numbers are kept in 16 bits."""
MOST = 4096
"""Numbers of a vector, at most."""
BLOCK = 65_536
"""Vectors that are converted at once."""


@FEATURE_KINDS.register("vector")
class VectorFeature(ColumnFeature):
    """A vector of content, of one length in all rows. It is kept in 16 bits; a network also sees whether it is missing.

    A null is missing, and so is a vector of zeros, which has no direction.
    """

    kind: Literal["vector"] = "vector"
    dim: Annotated[int, Ge(1), Le(MOST)]
    """Numbers of each vector."""
    normalise: bool = False
    """Scale each vector to length 1."""
    project: Annotated[int, Ge(1), Le(MOST)] | None = None
    """A learnt linear map to so many columns, shared by all stages that share embeddings."""
    file: str | None = None
    """A file of vectors next to the table of items, or of users: `.npy` with `ids`, or a table with the id's column."""
    ids: str | None = None
    """With a `.npy` file: the file of the ids of its rows, a `.npy` too, or a table with the id's column."""

    uses: ClassVar[frozenset[Use]] = frozenset({"vector"})
    network_settings: ClassVar[frozenset[str]] = frozenset({"project"})
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"project"})
    storage: ClassVar[Storage] = "vector"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.project is not None and self.project >= self.dim:
            raise ValueError(f"project: must be less than dim, {self.dim}; received {self.project}")
        if self.file is None:
            if self.ids is not None:
                raise ValueError("ids: belongs to a `file` of vectors; write that, too")
            return self
        if self.side not in ("item", "user"):
            raise ValueError(f"file: holds vectors of items or of users; this one's side is {self.side}")
        if self.file.endswith(".npy") != (self.ids is not None):
            raise ValueError(
                "ids: names the file of the ids of a `.npy` file's rows, and is needed with such a file alone; "
                f"received file: {self.file}, ids: {self.ids}"
            )
        return self

    @property
    def vector(self) -> VectorShape:
        """Its dimension, projection and files."""
        return VectorShape(self.dim, self.project, tuple(p for p in (self.file, self.ids) if p is not None))

    @property
    def width(self) -> int:
        """Columns of the vector or its projection, and one for a missing vector."""
        return self.vector.width

    def check_data(self, name: str, schema: FeatureSet, data: DataSettings) -> None:
        """Raise ConfigError if a file belongs to a table that is not given."""
        table = {"item": "items", "user": "users"}.get(self.side)
        if self.file is not None and table is not None and getattr(data, table) is None:
            raise ConfigError(f"features.{name}.file: holds vectors of data.{table}; name that table, too")

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect lists of numbers."""
        fits = dtype == pl.Null or (
            isinstance(dtype, pl.List | pl.Array) and (dtype.inner == pl.Null or dtype.inner.is_numeric())
        )
        return None if fits else f"lists of {self.dim} numbers, as features.{name} is of kind vector"

    def is_missing(self, column: str) -> pl.Expr:
        """Nulls, and vectors of zeros."""
        numbers = pl.col(column).cast(pl.List(pl.Float64))
        return ~(numbers.list.eval(pl.element() != 0).list.any()).fill_null(False)

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Vectors of 16 bits, none where missing: (N)."""
        if values.null_count() == len(values):
            return Vectors.none(len(values), self.dim)
        if self.check_column(name, values.dtype):
            first = values.drop_nulls()[0]
            raise DataError(
                f"feature '{name}': expected a list of {self.dim} numbers; received {_show(first)} ({values.dtype})"
            )
        known = np.flatnonzero(values.is_not_null().to_numpy())
        lists = values.filter(values.is_not_null())
        length = (
            pl.Series([lists.dtype.size]).new_from_index(0, len(lists))
            if isinstance(lists.dtype, pl.Array)
            else lists.list.len()
        ).to_numpy()
        if len(odd := np.flatnonzero(length != self.dim)):
            raise RowError(
                f"feature '{name}': expected {self.dim} numbers, as features.{name}.dim says; "
                f"received {length[odd[0]]}",
                int(known[odd[0]]),
            )
        numbers = np.empty((len(known), self.dim), dtype=np.float16)
        for first in range(0, len(known), BLOCK):
            rows = slice(first, first + BLOCK)
            numbers[rows] = self._convert(lists[rows], known[rows], name)
        vectors = Vectors.of(numbers)
        row = np.full(len(values), -1, dtype=np.int32)
        row[known] = vectors.row
        return Vectors(row, vectors.values)

    def _convert(self, lists: pl.Series, row: NDArray[np.integer], name: str) -> NDArray[np.float16]:
        """Convert lists of `dim` numbers, of some rows, to 16 bits. Raises DataError."""
        flat = lists.explode()
        numbers = flat.cast(pl.Float32).fill_null(np.nan).to_numpy().reshape(-1, self.dim)
        if not np.isfinite(numbers).all():
            n, at = np.argwhere(~np.isfinite(numbers))[0].tolist()
            raise RowError(
                f"feature '{name}': a vector's numbers must be finite, in 32 bits; received "
                f"{flat[n * self.dim + at]} as its {at + 1}. of {self.dim}; write null for a missing vector",
                int(row[n]),
            )
        if self.normalise:
            return _to_unit(numbers).astype(np.float16)
        if np.abs(numbers).max(initial=0) > LARGEST:
            n = int(np.argmax(np.abs(numbers).max(axis=1)))
            raise RowError(
                f"feature '{name}': {np.abs(numbers[n]).max():g} is too large for the 16 bits that vectors are kept "
                f"in, {LARGEST:g} at most; write `normalise: true`, or scale the vectors",
                int(row[n]),
            )
        return numbers.astype(np.float16)

    def sample(self, encoder: Encoder | None, rng: np.random.Generator) -> Any:
        """Draw a vector of length 1."""
        drawn = rng.normal(size=(1, self.dim)).astype(np.float32)
        return [round(float(number), 4) for number in _to_unit(drawn)[0]]

    def dtype(self, encoder: Encoder | None) -> pl.DataType | None:
        """Lists of numbers."""
        return pl.List(pl.Float32())


def _to_unit(numbers: Floats) -> NDArray[np.float64]:
    """Scale vectors to length 1, but for those of zeros: (N, d). Neither squares overflow nor small ones vanish."""
    largest = np.abs(numbers).max(axis=1, initial=0).astype(np.float64)[:, None]
    scaled = numbers / np.where(largest > 0, largest, 1)
    length = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = scaled / np.where(length > 0, length, 1)
    return unit


def _show(value: Any) -> str:
    """A value as messages show it."""
    plain_value = value.to_list() if isinstance(value, pl.Series) else value
    return f"{plain_value!r:.80}"
