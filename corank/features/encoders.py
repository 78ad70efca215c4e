"""Features → codes and scaled numbers: fitted once on training rows, applied anywhere, offline as online."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.files import read_frame, write_bytes, write_frame
from corank.core.ragged import Ragged, Rows
from corank.core.types import Doubles, Floats, Hashes, Ints
from corank.features.kinds import IdsFeature
from corank.features.scale import Bucket, Scale, numbers
from corank.features.schema import Placed, Placement, Schema
from corank.features.vocabulary import Hash, Vocabulary

Encoder = Vocabulary | Hash | Bucket | Scale
Column = Ints | Floats
Encoded = Column | Ragged


def assemble(placed: Placed, columns: Mapping[str, Encoded], count: int) -> Rows:
    """Encoded features, by name, as `count` rows of a placement."""
    ids = np.empty((count, len(placed.ids)), dtype=np.int32)
    scaled = np.empty((count, len(placed.numbers)), dtype=np.float32)
    for matrix, names in ((ids, placed.ids), (scaled, placed.numbers)):
        for n, name in enumerate(names):
            column = columns[name]
            assert not isinstance(column, Ragged)
            matrix[:, n] = column
    lists = [columns[name] for name in placed.lists]
    return Rows(ids, scaled, tuple(values for values in lists if isinstance(values, Ragged)))


@dataclass(frozen=True)
class Encoders:
    """The fitted encoder of each feature; a history has that of the feature it is `of`.

    The vocabularies of the item id and the user id hold the ids with at least `min_count` training rows of
    the log: an id never trained on is encoded as unknown, whose embedding is trained, rather than as a row of
    noise. Other item (user) features are fitted on the rows of `items` (`users`).
    """

    schema: Schema
    fitted: dict[str, Encoder]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Embedding rows of each feature that owns a table."""
        return {name: e.size for name, e in self.fitted.items() if not isinstance(e, Scale)}

    def encode(self, name: str, values: pl.Series) -> Encoded:
        """Codes (N,) int32, scaled numbers (N,) float32, or for a feature of kind `ids` N lists of codes.

        Raises DataError, which names the feature and the value, for values of another type than in training, NaN
        and infinities.
        """
        feature = self.schema.features[name]
        encoder = self.fitted[name]
        if isinstance(feature, IdsFeature):
            return self._lists(name, feature, values)
        if isinstance(encoder, Scale):
            return encoder.scaled(numbers(values, name))
        if isinstance(encoder, Bucket):
            return encoder.codes(numbers(values, name))
        return encoder.codes(values, name)

    def derived(self, name: str, values: Hashes | Doubles) -> Column:
        """A derived feature's values, hashes (0 for missing) or numbers (NaN), as codes or scaled: (N,)."""
        encoder = self.fitted[name]
        if isinstance(encoder, Scale):
            return encoder.scaled(values.astype(np.float64, copy=False))
        if isinstance(encoder, Bucket):
            return encoder.codes(values.astype(np.float64, copy=False))
        assert values.dtype == np.uint64
        return encoder.codes_of(values.view(np.uint64))

    def columns(self, placement: Placement, frame: pl.DataFrame) -> dict[str, Encoded]:
        """The placement's features of columns, from those that the schema names; an absent one is all missing."""
        absent = pl.Series([None] * len(frame), dtype=pl.Null)
        found = {}
        for name in self.schema.columns(placement):
            column = self.schema.column(name)
            found[name] = self.encode(name, frame[column] if column in frame.columns else absent)
        return found

    def _lists(self, name: str, feature: IdsFeature, values: pl.Series) -> Ragged:
        length, flat = split(values, feature.separator, name)
        encoder = self.fitted[name]
        assert isinstance(encoder, Vocabulary | Hash)
        codes = encoder.codes(flat, name)
        return Ragged.packed(length, codes).first(feature.last)

    def save(self, folder: Path) -> None:
        """Write `encoders.json`, and each vocabulary as Arrow."""
        folder.mkdir(parents=True, exist_ok=True)
        plain: dict[str, Any] = {}
        for n, (name, encoder) in enumerate(self.fitted.items()):
            if isinstance(encoder, Vocabulary):
                write_frame(folder / f"vocabulary-{n}.arrow", encoder.values.alias("value").to_frame())
                plain[name] = {"is": "vocabulary", "file": f"vocabulary-{n}.arrow"}
            else:
                parts = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(encoder).items()}
                plain[name] = {"is": type(encoder).__name__.lower(), **parts}
        write_bytes(folder / "encoders.json", json.dumps(plain, indent=1).encode())

    @classmethod
    def load(cls, folder: Path, schema: Schema) -> Self:
        """Raises DataError if a part is missing or damaged."""
        try:
            plain = json.loads((folder / "encoders.json").read_bytes())
            return cls(schema, {name: _encoder(folder, dict(parts)) for name, parts in plain.items()})
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{folder}: encoders cannot be read: {error}") from None


def _encoder(folder: Path, parts: dict[str, Any]) -> Encoder:
    kinds: dict[str, type[Hash | Bucket | Scale]] = {"hash": Hash, "bucket": Bucket, "scale": Scale}
    kind = parts.pop("is")
    if kind == "vocabulary":
        return Vocabulary(read_frame(folder / parts["file"])["value"])
    arrays = {
        key: np.array(value, dtype=np.float64) for key, value in parts.items() if isinstance(value, list)
    }
    return kinds[kind](**{**parts, **arrays})


def hashed(values: NDArray[Any]) -> pl.Series:
    """Hashes as the values of a vocabulary or a hash: signed, null for 0."""
    assert values.dtype == np.uint64
    series = pl.Series(values.view(np.int64))
    return series if values.all() else series.set(pl.Series(values == 0), None)


def split(values: pl.Series, separator: str | None, name: str) -> tuple[Ints, pl.Series]:
    """Lists, or text to split, as lengths (N,) and values one after another, nulls and blanks left out.

    By way of Arrow's functions: polars expressions cost ten times as much on a request's few rows.
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
        # a request may list what the tables spell in one text, numbers included
        flat = pc.utf8_trim_whitespace(flat.cast(pa.large_string()))
        keep = pc.not_equal(flat, "").fill_null(False)
    elif flat.null_count:
        keep = flat.is_valid()
    else:
        return length, pl.Series(flat)
    row = np.repeat(np.arange(len(length)), length)[keep.to_numpy(zero_copy_only=False)]
    return np.bincount(row, minlength=len(length)).astype(np.int32), pl.Series(flat.filter(keep))
