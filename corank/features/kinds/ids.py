"""`kind: ids`: several categorical values, their embeddings pooled; of a list column or of the user's history.

The settings of a list that may be a history: which events it holds, and what contradicts what.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt, model_validator

from corank.core.arrow import to_mask, to_numbers
from corank.core.errors import ConfigError, DataError
from corank.core.ragged import Ragged
from corank.core.settings import Duration, require_known
from corank.core.types import Ints
from corank.features.encoding import SAMPLED, Encoded, Encoder, Hash, Vocabulary, hash_values
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, FeatureKind, FeatureSet, Storage, Use
from corank.features.history import EventLists, History, check_grid, split_aligned, to_times
from corank.features.kinds.id import check_filter
from corank.features.log_schema import DataSettings
from corank.features.training_values import GROWTH, TrainingValues, VocabularySettings, fit_codes

LAST = 50
"""Values of a list, at most, unless a feature says otherwise."""


class HistorySettings(VocabularySettings, ColumnFeature):
    """A list column; with `of` a history, or an attribute of its items; with `parallel_to` an attribute of its events.

    A history is made of the log's exposures, of the list column `column`, or of the table `events`. Without `of` a
    history of a table holds the values of its column `column`, which are no items.
    """

    dim: PositiveInt | None = None
    """Width of the embedding; that of its items for a history."""
    last: PositiveInt = LAST
    """At most so many values: the newest of a history, the first of a list column."""
    separator: str | None = None
    """Splits a text column into values, as in `20,43`."""
    of: str | None = None
    """A history: the item id feature whose table it shares; its past items are the values. Or `HISTORY.FEATURE`: an
    attribute of that history's items, which shares the table of that item feature."""
    event: str | None = None
    """History of the log's exposures: the label that must be 1 (any exposed candidate unless given)."""
    times: str | None = None
    """History of a list column: the column that lists the times of its events."""
    events: str | None = None
    """History of an events table: its name in `data.events`. Without `of` it lists the values of its `column`."""
    parallel_to: str | None = None
    """The history to whose events the values belong, one each: a list parallel to its own, or a column of its table."""
    lag: Duration = timedelta()
    """History: an event younger than this at the request is not known yet."""
    every: Duration | None = None
    """History: frozen at the last multiple of this (in the data's time zone) before the request."""
    half_life: Duration | None = None
    """History: an event that is older by this much than another counts half as much."""

    @property
    def as_column(self) -> ColumnFeature | None:
        """Itself, unless it is a history of exposures or of a table, or an attribute of a history's items."""
        return self if self.of is None or self.column is not None else None

    @property
    def attribute(self) -> tuple[str, str] | None:
        """The history and the item feature whose values these are, if they are an attribute of a history's items."""
        history, dot, feature = (self.of or "").rpartition(".")
        return (history, feature) if dot else None

    @property
    def as_history(self) -> History | None:
        """Its events, if it is a history."""
        if self.attribute or (self.of is None and self.events is None):
            return None
        listed = self.of is not None and self.column is not None
        lists = EventLists(str(self.column), self.times, self.separator) if listed else None
        cut = (self.lag, self.every, self.half_life, self.last)
        # what is of no items is of itself: see `Schema.histories`
        return History(self.of or "", self.event, *cut, lists, self.events)

    @property
    def parallel(self) -> str | None:
        """The history to whose events its values belong."""
        return self.parallel_to

    @property
    def made_of(self) -> str | None:
        """The history and the item feature, if it is an attribute of a history's items."""
        return self.of if self.attribute else None

    @property
    def more_columns(self) -> Mapping[str, tuple[pl.DataType, Callable[[Any], Any]]]:
        """The times of a list column's events: lists of ms since 1970 UTC, or texts of them."""
        kind: pl.DataType = pl.List(pl.Int64()) if self.separator is None else pl.String()
        return {} if self.times is None else {self.times: (kind, self._to_table)}

    def _to_table(self, value: Any) -> Any:
        """Write times as ms. Raises ValueError."""
        _, values = split_aligned(pl.Series([value]), self.separator, "a request")
        times, known = to_times(values, "a request")
        if not known.all():
            raise ValueError("a time is null")
        return times.tolist() if self.separator is None else self.separator.join(map(str, times.tolist()))

    def table_owner(self, name: str) -> str:
        """The item feature that a history lists; itself, if it is none."""
        return self.of.rpartition(".")[2] if self.of else name

    def inherit(self, features: Mapping[str, FeatureKind]) -> Self:
        """Take over the dimension of the item feature whose table it shares, and the separator of parallel lists."""
        owner = features.get(self.table_owner("")) if self.of else None
        if owner is not None and self.dim is None and self.input:
            return self.model_copy(update={"dim": owner.width})
        beside = features.get(self.parallel_to) if self.parallel_to else None
        history = beside.as_history if beside is not None else None
        if history is not None and history.lists is not None and self.separator is None:
            return self.model_copy(update={"separator": history.lists.separator})
        return self

    # What contradicts what

    @model_validator(mode="after")
    def _check_history_settings(self) -> Self:
        if self.every is not None:
            check_grid(self.every)
        if self.half_life is not None and not self.half_life:
            raise ValueError("half_life must be above 0s")
        if (self.of or self.parallel_to or self.events) and self.side != "user":
            raise ValueError(f"a history belongs to the user; write `side: user` in place of `{self.side}`")
        if (self.attribute or self.parallel_to or (self.events and not self.of)) and not self.input:
            raise ValueError("only networks read what belongs to the events of a history; drop input: false")
        if self.of is None and self.events is not None:
            self._check_values()
        elif self.of is None:
            self._check_list()
        elif self.parallel_to is not None:
            raise ValueError("a list is `of` the items of a history or `parallel_to` its events; drop one")
        elif settings := self._given("hash", *GROWTH):
            raise ValueError(f"a history is encoded by the feature it is `of`; drop {', '.join(settings)}")
        elif self.attribute:
            self._check_attribute(self.attribute[0])
        elif self.column is not None:
            self._check_listed(self.column)
        else:
            self._check_derived()
        return self

    def _given(self, *names: str) -> list[str]:
        """Find those of some settings that are given."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].get_default()]

    def _check_values(self) -> None:
        if settings := self._given("event", "times", "separator", "parallel_to"):
            raise ValueError(f"{', '.join(settings)}: the events are the rows of '{self.events}'; drop it")

    def _check_list(self) -> None:
        if settings := self._given("event", "times", "lag", "every", "half_life"):
            raise ValueError(
                f"{', '.join(settings)}: a setting of histories; write `of: <item id feature>` or `events: <table>`, "
                "or drop it"
            )
        if self.parallel_to is not None and self._given("last"):
            raise ValueError(f"last: that of the history '{self.parallel_to}' holds here, too; drop it")

    def _check_attribute(self, history: str) -> None:
        own = ("column", "event", "times", "events", "separator", "lag", "every", "half_life", "last")
        if settings := self._given(*own):
            raise ValueError(f"{', '.join(settings)}: the events are those of '{history}'; drop it here")

    def _check_listed(self, column: str) -> None:
        if settings := self._given("event", "events"):
            raise ValueError(f"{', '.join(settings)}: the events are those of column '{column}'; drop it")
        if self.times is None and (settings := self._given("lag", "every", "half_life")):
            raise ValueError(
                f"{', '.join(settings)}: the times of the events of column '{column}' are needed; name the column that "
                "lists them as `times`, or drop it"
            )

    def _check_derived(self) -> None:
        if settings := self._given("times", "separator"):
            raise ValueError(f"{', '.join(settings)}: of list columns; name one as `column`, or drop it")
        if self.events is not None and self.event is not None:
            raise ValueError(f"event: every row of the events '{self.events}' is an event; drop it")

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError if the feature that a history is `of` is not there or has another dimension."""
        if self.parallel_to is not None:
            self._check_parallel(name, schema)
        if self.of is None:
            return
        if self.attribute:
            schema.check_operand(f"features.{name}.of", self.of)
            if "list" not in schema.uses_of(self.of):
                raise ConfigError(f"features.{name}.of: '{self.of}' is a vector; compare it by a `cosine`")
        else:
            known = schema.history_items()
            if self.of not in known:
                raise ConfigError(
                    f"features.{name}.of: must name an item id feature ({', '.join(known) or 'none declared'}); "
                    f"received {self.of!r}"
                )
        owner = self.table_owner(name)
        if not self.input:
            return
        if not schema.features[owner].is_input:
            own = (
                ""
                if self.attribute
                else f", or write input: false for '{name}', too: then networks read but what "
            )
            raise ConfigError(
                f"features.{name}.of: shares the table of '{owner}', which is no input and has none; "
                f"drop features.{owner}.input: false{own and own + 'is made of it'}"
            )
        width = schema.features[owner].width
        if self.width != width:
            raise ConfigError(
                f"features.{name}.dim: a history shares the table of '{owner}', whose dim is {width}; "
                f"received {self.dim}"
            )

    def _check_parallel(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError unless `parallel_to` names a history whose events have attributes."""
        known = [n for n, history in schema.histories().items() if history.lists or history.table]
        if self.parallel_to not in known:
            raise ConfigError(
                f"features.{name}.parallel_to: must name a history of a list column or of an events table "
                f"({', '.join(known) or 'none declared'}); received {self.parallel_to!r}"
            )
        lists = schema.histories()[self.parallel_to].lists
        if lists is not None and (self.column or name) in (lists.column, lists.times):
            raise ConfigError(
                f"features.{name}.column: '{self.column or name}' is a column of the history '{self.parallel_to}' "
                "itself; name another list beside it"
            )
        if self.separator != (lists and lists.separator):
            raise ConfigError(
                f"features.{name}.separator: that of the history '{self.parallel_to}' holds here, too; drop it"
            )

    def check_data(self, name: str, schema: FeatureSet, data: DataSettings) -> None:
        """Raise ConfigError if a history's label or table does not exist, or it is not of the item's id."""
        if self.events is not None:
            require_known(self.events, data.events, f"features.{name}.events", "table", "data.events")
        if self.of is None or self.attribute:
            return
        if self.event is not None:
            require_known(self.event, data.labels, f"features.{name}.event", "label", "data.labels")
        if schema.column(self.of) != data.item:
            raise ConfigError(
                f"features.{name}.of: a history holds items, so it must be of the feature over "
                f"data.item ('{data.item}'); received '{self.of}'"
            )


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
    storage: ClassVar[Storage] = "list"

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
    elif isinstance(values.dtype, pl.List | pl.Array) and not isinstance(values.dtype.inner, pl.Struct):
        array = values.to_arrow()
    else:  # of objects, too, which polars cannot hand to Arrow if a key has a null character
        received = values.drop_nulls()[0]
        shown = received.to_list() if isinstance(received, pl.Series) else received
        raise DataError(f"feature '{name}': expected lists of values, not {shown!r:.100} ({values.dtype})")
    length = to_numbers(pc.list_value_length(array)).astype(np.int32)
    flat = array.flatten()
    if separator is not None:
        if pa.types.is_nested(flat.type):
            raise DataError(f"feature '{name}': expected texts; received {flat[0].as_py()!r}")
        # a request may list what the tables write as one text, numbers included
        flat = pc.utf8_trim_whitespace(flat.cast(pa.large_string()))
        keep = to_numbers(pc.binary_length(flat)) > 0
    elif flat.null_count:
        keep = to_mask(flat.is_valid())
    else:
        return length, pl.Series(flat)
    row = np.repeat(np.arange(len(length)), length)[keep]
    return np.bincount(row, minlength=len(length)).astype(np.int32), pl.Series(flat).filter(pl.Series(keep))
