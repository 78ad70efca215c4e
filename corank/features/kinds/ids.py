"""`kind: ids`: several categorical values, their embeddings pooled; of a list column or of the user's history."""

from datetime import timedelta
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt, model_validator

from corank.core.errors import ConfigError, DataError
from corank.core.ragged import Ragged
from corank.core.settings import Duration
from corank.core.types import Ints
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, SAMPLED, ColumnFeature, Storage, Use
from corank.features.history import History, check_grid
from corank.features.kinds.id import check_filter
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.training_values import TrainingValues
from corank.features.vocabulary import Hash, Vocabulary, fit_codes, hash_values

LAST = 50
"""Values of a list, at most, unless a feature says otherwise."""


@FEATURE_KINDS.register("ids")
class IdsFeature(ColumnFeature):
    """Several categorical values, their embeddings pooled: a list column, or with `of` the user's history."""

    kind: Literal["ids"]
    dim: PositiveInt = 16
    pool: Literal["mean", "sum"] = "mean"
    last: PositiveInt = LAST
    """At most so many values: the newest of a history, the first of a list column."""
    min_count: PositiveInt = 1
    hash: PositiveInt | None = None
    separator: str | None = None
    """Splits a text column into values, as in `20,43`."""
    filter: bool = False
    """Requests may filter retrieval by any of its values; for item features."""
    of: str | None = None
    """A history: the item id feature whose table it shares; its past items are the values. Or `HISTORY.FEATURE`: an
    attribute of that history's items, which shares the table of that item feature."""
    event: str | None = None
    """History: the label that must be 1 (any exposed candidate unless given)."""
    lag: Duration = timedelta()
    """History: an event younger than this at the request is not known yet."""
    every: Duration | None = None
    """History: frozen at the last multiple of this (in the data's time zone) before the request."""
    half_life: Duration | None = None
    """History: an event that is older by this much than another counts half as much."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Vocabulary, Hash)
    uses: ClassVar[frozenset[Use]] = frozenset({"list"})
    network_settings: ClassVar[frozenset[str]] = frozenset({"dim", "pool", "min_count", "hash"})

    @property
    def storage(self) -> Storage:
        """A list of codes."""
        return "list"

    @property
    def width(self) -> int:
        """The dimension of the embedding."""
        return self.dim

    @property
    def averages(self) -> bool:
        """Whether the embeddings are averaged."""
        return self.pool == "mean"

    @property
    def filterable(self) -> bool:
        """Whether `filter` is set."""
        return self.filter

    @property
    def as_column(self) -> ColumnFeature | None:
        """Itself, if it is a list column."""
        return self if self.of is None else None

    @property
    def attribute(self) -> tuple[str, str] | None:
        """The history and the item feature whose values these are, if they are an attribute of a history's items."""
        history, dot, feature = (self.of or "").rpartition(".")
        return (history, feature) if dot else None

    @property
    def as_history(self) -> History | None:
        """Its events, if it is a history."""
        if self.of is None or self.attribute:
            return None
        return History(self.of, self.event, self.lag, self.every, self.half_life, self.last)

    @property
    def made_of(self) -> str | None:
        """The history and the item feature, if it is an attribute of a history's items."""
        return self.of if self.attribute else None

    def table_owner(self, name: str) -> str:
        """The item feature that a history lists; itself, if it is a list column."""
        return self.of.rpartition(".")[2] if self.of else name

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_filter(self.side, self.filter)
        if self.every is not None:
            check_grid(self.every)
        if self.half_life is not None and not self.half_life:
            raise ValueError("half_life must be above 0s")
        own = bool(self.event or self.lag or self.every or self.half_life)
        if self.of is None:
            self._check_list(own)
        else:
            self._check_history(own)
        return self

    def _check_list(self, own: bool) -> None:
        """`own`: whether a setting of histories is set."""
        if own:
            raise ValueError(
                "event, lag, every and half_life describe a history; write `of: <item id feature>` too"
            )

    def _check_history(self, own: bool) -> None:
        if self.side != "user":
            raise ValueError(f"a history belongs to the user; write `side: user` in place of `{self.side}`")
        if not self.input:
            raise ValueError("a history is an input of networks; drop input: false")
        if self.hash or self.separator or self.min_count > 1:
            raise ValueError(
                "a history is encoded by the feature it is `of`; drop hash, separator, min_count"
            )
        if self.attribute and (own or self.last != LAST):
            raise ValueError(
                f"event, lag, every, half_life and last are those of the history '{self.attribute[0]}'; drop them here"
            )

    def check(self, name: str, schema: Schema) -> None:
        """Raise ConfigError if the feature that a history is `of` is not there or has another dimension."""
        if self.of is None:
            return
        if self.attribute:
            schema.check_operand(f"features.{name}.of", self.of)
        else:
            known = schema.history_items()
            if self.of not in known:
                raise ConfigError(
                    f"features.{name}.of: must name an item id feature ({', '.join(known) or 'none declared'}); "
                    f"received {self.of!r}"
                )
        owner = self.table_owner(name)
        if not schema.features[owner].is_input:
            raise ConfigError(
                f"features.{name}.of: shares the table of '{owner}', which is no input and has none; "
                f"drop features.{owner}.input: false"
            )
        width = schema.features[owner].width
        if self.dim != width:
            raise ConfigError(
                f"features.{name}.dim: a history shares the table of '{owner}', whose dim is {width}; "
                f"received {self.dim}"
            )

    def check_data(self, name: str, schema: Schema, data: DataSettings) -> None:
        """Raise ConfigError if a history's label does not exist, or it is of a feature that is not the item's id."""
        if self.of is None or self.attribute:
            return
        if self.event is not None and self.event not in data.labels:
            raise ConfigError(
                f"features.{name}.event: no label '{self.event}'; data.labels are {', '.join(data.labels)}"
            )
        if schema.column(self.of) != data.item:
            raise ConfigError(
                f"features.{name}.of: a history holds items, so it must be of the feature over "
                f"data.item ('{data.item}'); received '{self.of}'"
            )

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
        return fit_codes(values.flatten(value), self.min_count, self.hash if self.input else 1)

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
