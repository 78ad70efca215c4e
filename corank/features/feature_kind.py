"""What a kind of feature is: its settings, how it is fitted and encoded, and what other features may make of it.

A kind is a pydantic class in the registry `FEATURE_KINDS`; a feature of the config is an instance of it. A
`ColumnFeature` reads a column and declares its side; a `DerivedFeature` is made of other features, its operands, and
has their side. `user` and `context` make up the query, known once a request; `item` is known before any; a `cross` is
of a pair of both: rankers see it, of counts also towers. From outside: docs/extending/README.md. Letters: N rows.
"""

import operator
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from corank.core.errors import ConfigError
from corank.core.ragged import Ragged
from corank.core.registry import Registry, by_name, check_settings_class
from corank.core.settings import Settings
from corank.core.types import Doubles, Hashes
from corank.features.encoding import MISSING, SAMPLED, UNKNOWN, Column, Encoded, Encoder, VectorShape
from corank.features.history import EventAge, History
from corank.features.log_schema import DataSettings
from corank.features.operands import OperandRows
from corank.features.priors import CountedFeature, PointInTime
from corank.features.training_values import TrainingValues

Side = Literal["user", "context", "item", "cross"]
Storage = Literal["id", "list", "number", "vector"]
"""How it is stored and enters a network: one code, a list of codes (both embedded), numbers, or a float16 vector."""
Use = Literal["id", "key", "list", "number", "vector", "time"]
"""What a derived feature may take of another: `id`, a hash of the value itself, which can be looked for in lists;
`key`, a hash of the value or of its bucket; `list`, hashes of several values; `number`; `vector`; `time`, in ms."""


class FeatureKind(Settings):
    """What all features have. Kinds derive from `ColumnFeature` or `DerivedFeature`."""

    kind: str
    on_page: bool = Field(False, exclude_if=operator.not_)
    """Whether a page reads its values of items; the rules of the page, and its `by`, set it. Experimental."""
    encoders: ClassVar[tuple[type[Encoder], ...]] = ()
    """The classes of encoders that `fit` may return."""
    uses: ClassVar[frozenset[Use]] = frozenset()  # what derived features may take of it
    unpacked_settings: ClassVar[frozenset[str]] = frozenset()  # those that networks alone read, such as `dim`

    @property
    def storage(self) -> Storage:
        """How it is stored: `number` unless the kind is embedded."""
        return "number"

    @property
    def width(self) -> int:
        """Columns of the dense input that it fills: the dimension of its embedding, or how many numbers it gives."""
        return 1

    @property
    def vector(self) -> VectorShape:
        """Its vector, if it is stored as one."""
        return VectorShape()

    @property
    def averages(self) -> bool:
        """Whether the embeddings of a list are averaged, instead of summed."""
        return False

    @property
    def filterable(self) -> bool:
        """Whether requests may filter retrieval by it."""
        return False

    @property
    def as_column(self) -> "ColumnFeature | None":
        """Itself, if it reads a column."""

    @property
    def as_derived(self) -> "DerivedFeature | None":
        """Itself, if it is made of operands."""

    @property
    def as_prior(self) -> CountedFeature | None:
        """Itself, if it counts earlier candidates."""

    @property
    def as_history(self) -> History | None:
        """Which events it lists, if it is a history of the user."""

    @property
    def attribute(self) -> tuple[str, str] | None:
        """The history and the item feature, if it lists what the items of a history have of that feature."""

    @property
    def is_input(self) -> bool:
        """Whether networks may read it."""
        return True

    @property
    def parallel(self) -> str | None:
        """The history to whose events its values belong, one each."""

    @property
    def made_of(self) -> str | None:
        """What it is made of, for people; None if it is read from a table."""

    def inherit(self, features: Mapping[str, "FeatureKind"]) -> Self:
        """Take over from other features, by name, what they decide."""
        return self

    def table_owner(self, name: str) -> str:
        """The feature whose embedding table it reads: itself, called `name`, unless it shares one."""
        return name

    @abstractmethod
    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """Its side, given those of other features."""

    def check(self, name: str, schema: "FeatureSet") -> None:
        """Raise ConfigError if it, called `name`, does not fit the other features."""

    def check_data(self, name: str, schema: "FeatureSet", data: DataSettings) -> None:
        """Raise ConfigError if it, called `name`, does not fit the data's settings, such as their labels."""

    def fit(self, values: TrainingValues) -> Encoder | None:
        """Learn an encoder from training values; None if there is nothing to learn. Raises DataError.

        It asks `values.counts()`, `tally()`, `sample()`, `bounds()`, `moments()` or `first()`; of the elements of lists
        by `values.flatten(…)`. It runs until all is measured, so it must ask the same each time.
        """
        return None

    def decode(self, encoder: Encoder | None, encoded: Any) -> Any:
        """Turn a code (int) or numbers (width,) back into what people read, as far as that is possible."""
        if self.storage in ("number", "vector"):
            rounded = [round(float(number), 4) for number in encoded]
            return rounded[0] if len(rounded) == 1 else rounded
        if encoded == MISSING or encoder is None:
            return None
        return "unknown" if encoded == UNKNOWN else encoder.decode(encoded)


class ColumnFeature(FeatureKind):
    """A feature that is read from a column. A kind must implement `encode`."""

    side: Side
    """Whose value it is: it decides which towers may read it."""
    column: str | None = None
    """Column of the side's table; the feature's name unless given."""
    input: bool = True
    """Whether networks read it. Otherwise only derived features do, and filters of retrieval."""

    network_settings: ClassVar[frozenset[str]] = frozenset()  # those of no effect with `input: false`

    @property
    def is_input(self) -> bool:
        """Whether `input` is set."""
        return self.input

    @model_validator(mode="after")
    def _check_input(self) -> Self:
        fields = type(self).model_fields
        idle = sorted(n for n in self.network_settings if getattr(self, n) != fields[n].default)
        if not self.input and idle:
            raise ValueError(f"{idle[0]} has no effect with input: false, as no network reads it; drop it")
        return self

    @property
    def as_column(self) -> "ColumnFeature | None":
        """Itself."""
        return self

    @property
    def more_columns(self) -> Mapping[str, tuple[pl.DataType, Callable[[Any], Any]]]:
        """Other columns that it reads: type in a table, and how to write a request's value so (ValueError if unfit)."""
        return {}

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """Its side, as declared."""
        return self.side

    @abstractmethod
    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Encode raw values, the same offline and online.

        Args:
            encoder: what `fit` returned.
            values: (N,), with nulls.
            name: the feature's, for messages.

        Returns codes (N,) int32, N lists of codes, numbers (N,) or (N, width) float32, or N vectors, as `storage` says.
        Raises DataError if the values are of a type that cannot be encoded.
        """

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Say what the feature, called `name`, expects of its column, if the type does not fit."""
        return None

    def is_missing(self, column: str) -> pl.Expr:
        """Whether a value of the column is missing: null, unless the kind takes others for it, too."""
        return pl.col(column).is_null()

    def keys(self, encoder: Encoder | None, values: pl.Series, name: str) -> Hashes:
        """Hashes by which derived features distinguish values, 0 where missing: (N,). For uses `id` and `key`."""
        raise NotImplementedError(f"{self.kind} gives no keys")

    def lists(self, values: pl.Series, name: str) -> Ragged:
        """N lists of hashes. For use `list`."""
        raise NotImplementedError(f"{self.kind} gives no lists")

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        """Numbers, NaN where missing: (N,). For use `number`."""
        raise NotImplementedError(f"{self.kind} gives no numbers")

    def sample(self, encoder: Encoder | None, rng: np.random.Generator) -> Any:
        """Draw a raw value for an example request, as JSON has it; None if none is known."""
        drawn = encoder.sample(rng, SAMPLED) if encoder else []
        return drawn[0] if drawn else None

    def dtype(self, encoder: Encoder | None) -> pl.DataType | None:
        """Type of the column in a table, by which served requests are logged; None if it is not known."""
        return encoder.dtype if encoder else pl.Float64()

    def to_table(self, value: Any) -> Any:
        """Write a request's value as tables write it."""
        return value


class DerivedFeature(FeatureKind):
    """A feature made of others, the same offline and online. A kind has `operands`, `operand_uses`, `derive`."""

    operands_key: ClassVar[str] = "of"  # the settings key that lists the operands
    operands_text: ClassVar[str] = "features that fit"  # what the operands must be, for messages
    counts_candidates: ClassVar[bool] = False  # whether `derive` reads `when.sizes`
    compares_candidates: ClassVar[bool] = False  # whether `derive` needs all candidates of each request
    compares: ClassVar[bool] = False  # whether it looks for one operand in another: all text, or all numbers

    @property
    @abstractmethod
    def operands(self) -> Sequence[str]:
        """Names of features of columns, or `HISTORY.FEATURE`: what a history's items have of a feature."""

    @property
    @abstractmethod
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """What `derive` takes of each operand: one of these uses."""

    @property
    def may_match(self) -> bool:
        """Whether a pre-ranker can afford a cross of it: to count, compare or look up a number for many candidates."""
        return self.compares or self.compares_candidates or self.as_prior is not None

    @property
    def as_derived(self) -> "DerivedFeature | None":
        """Itself."""
        return self

    @property
    def aged_events(self) -> tuple[str, EventAge] | None:
        """The operand whose events' ages `derive` reads, and how these are measured."""
        return None

    @property
    def snapshot_every(self) -> timedelta | None:
        """The step at which it changes with the time of the request; None if it does not, or at any moment."""
        return None

    @property
    def made_of(self) -> str | None:
        """Its operands."""
        return ", ".join(self.operands)

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """The side of its operands: `context` where user and context meet, `cross` where query and item do."""
        sides = {side_of(operand.rpartition(".")[0] or operand) for operand in self.operands}
        return sides.pop() if len(sides) == 1 else "cross" if "item" in sides else "context"

    def check(self, name: str, schema: "FeatureSet") -> None:
        """Raise ConfigError if an operand is not there, is there twice, or does not give what is needed."""
        key = f"features.{name}.{self.operands_key}"
        if len(set(self.operands)) < len(self.operands):
            raise ConfigError(f"{key}: names one feature twice; received {', '.join(self.operands)}")
        for operand in self.operands:
            schema.check_operand(key, operand)
        for operand, needed in zip(self.operands, self.operand_uses, strict=True):
            if schema.uses_of(operand).isdisjoint(needed):
                raise ConfigError(f"{key}: a {self.kind} is of {self.operands_text}; '{operand}' is neither")

    @abstractmethod
    def derive(self, operands: OperandRows, when: PointInTime) -> Hashes | Doubles:
        """Compute the feature for N rows.

        Args:
            operands: what the operands give: `operands.key(name)`, `operands.number(name)`, `operands.lists(name)`.
            when: the time of each row, and what was counted before it.

        Returns:
            Hashes (N,), 0 where missing, or numbers (N,) or (N, width), NaN where missing.
        """

    def encode(self, encoder: Encoder | None, values: Hashes | Doubles) -> Column:
        """Encode what `derive` returned as codes (N,) int32 or numbers (N,) or (N, width) float32."""
        return np.asarray(np.nan_to_num(values), np.float32)


@dataclass(frozen=True)
class FeatureSet:
    """Features, and what each may ask of the others when it is checked. `Schema` knows more of them."""

    features: Mapping[str, FeatureKind]

    def check_operand(self, key: str, operand: str, any_of: bool = False) -> None:
        """Raise ConfigError unless it is a feature of a column (`any_of`: any) or an attribute of a history's items."""
        history, dot, name = operand.rpartition(".")
        if dot and self.of_items(history) is None:
            raise ConfigError(
                f"{key}: '{operand}' is an attribute of a history, but '{history}' is none of items; "
                f"histories are {', '.join(self.histories()) or 'not declared'}"
            )
        feature = self.features.get(name)
        if feature is None:
            raise ConfigError(f"{key}: no feature '{name}' is declared under features")
        if not any_of and feature.as_column is None and feature.as_history is None:
            raise ConfigError(f"{key}: '{name}' is itself made of others; name features of columns")
        side = self._side_of(name)
        if not any_of and side == "cross":
            raise ConfigError(f"{key}: '{name}' is of a logged pair; name user, context and item features")
        if dot and (side != "item" or feature.uses.isdisjoint({"id", "list", "vector"})):
            raise ConfigError(
                f"{key}: '{operand}' must be an item feature of kind id, ids or vector; "
                f"'{name}' is {'an' if side == 'item' else 'a'} {side} feature of kind {feature.kind}"
            )

    def uses_of(self, operand: str) -> frozenset[Use]:
        """What a derived feature may take of an operand. Of a history's items it takes lists, or their mean vector."""
        history, _, name = operand.rpartition(".")
        if not history:
            return self.features[name].uses
        return frozenset({"vector"} if "vector" in self.features[name].uses else {"list"})

    def of_items(self, operand: str) -> str | None:
        """The item feature that a history's operand speaks of, None for other operands."""
        if "." in operand:
            return operand.rpartition(".")[2]
        return past.of if (past := self.histories().get(operand)) and not past.values else None

    def history_of(self, operand: str) -> str:
        """The history that an operand such as `HISTORY` or `HISTORY.FEATURE` is of; the operand where it is of none."""
        return operand.rpartition(".")[0] or operand

    def events_of(self, operand: str) -> str:
        """The history to whose events the values of an operand belong; the operand where they belong to none."""
        return self.parallels().get(operand, self.history_of(operand))

    def history_items(self) -> list[str]:
        """The features that a history may be `of`: of items, with one code that is the value's own."""
        coded = {n: f.as_column for n, f in self.features.items() if f.storage == "id" and "id" in f.uses}
        return [n for n, column in coded.items() if column and column.side == "item"]

    def _side_of(self, name: str, asking: tuple[str, ...] = ()) -> Side:
        """The side of a feature; `asking`: those made of it whose side is sought, the first to ask first."""
        if name in asking:
            circle = " → ".join([*asking[asking.index(name) :], name])
            raise ConfigError(f"features.{name}: is made of itself ({circle}); name features of columns")
        if name not in self.features:
            raise ConfigError(f"features.{asking[-1]}: no feature '{name}' is declared under features")
        return self.features[name].side_among(lambda part: self._side_of(part, (*asking, name)))

    @cached_property
    def _sides(self) -> dict[str, Side]:
        return {name: self._side_of(name) for name in self.features}

    def side(self, name: str) -> Side:
        """The declared side, or for a derived feature that of its operands."""
        return self._sides[name]

    def histories(self) -> dict[str, History]:
        """The histories of the user."""
        return self._histories

    @cached_property
    def _histories(self) -> dict[str, History]:
        histories = {n: h for n, f in self.features.items() if (h := f.as_history) is not None}
        return {n: h if h.of else replace(h, of=n, values=self.column(n)) for n, h in histories.items()}

    def parallels(self) -> dict[str, str]:
        """The lists that are attributes of a history's events: the history."""
        return self._parallels

    @cached_property
    def _parallels(self) -> dict[str, str]:
        return {n: f.parallel for n, f in self.features.items() if f.parallel}

    def column(self, name: str) -> str:
        """The column that a feature is read from; of other features their name."""
        feature = self.features.get(name)
        column = feature.as_column if feature else None
        return (column.column if column else None) or name


_check = partial(check_settings_class, bases=(ColumnFeature, DerivedFeature))
FOREIGN_KINDS = {
    **dict.fromkeys(("category", "categorical", "string", "str"), "kind: id"),
    **dict.fromkeys(("numeric", "numerical", "float", "int", "dense"), "kind: number, or bucket to embed it"),
    **dict.fromkeys(("list", "multi", "sequence"), "kind: ids, with of: ITEM_FEATURE for a history of items"),
    **dict.fromkeys(
        ("date", "datetime", "timestamp"), "kind: time, and of kind age what it says of a request"
    ),
    "text": "kind: ids with separator: ' ' for its words, or kind: vector for its embedding",
    "embedding": "kind: vector",
}
"""Names that other libraries have for kinds."""

FEATURE_KINDS = Registry[type[FeatureKind]](
    "feature kind", "corank.features", "corank.features.kinds", _check, FOREIGN_KINDS
)
Feature = Annotated[FeatureKind, *by_name(FEATURE_KINDS, "kind")]
"""A settings field of any registered kind, chosen by the key `kind`."""
