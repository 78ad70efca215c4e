"""The query side of a request → its encoded row, by the code that packing used.

What the row and derived features take of a value of the user or the context is cached: values repeat, and a column of
one value costs more to build than a whole query that is cached.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from math import copysign
from types import NoneType
from typing import Any, NamedTuple, Self

import numpy as np

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Rows
from corank.core.types import Longs
from corank.data.packed.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, RowValue, assemble_row, to_row_value
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema, plain_columns
from corank.serving.funnel.request import Request, refuse_unknown_column, to_series
from corank.serving.funnel.request_history import (
    HistoryEncoder,
    HistoryItems,
    RequestHistory,
    WantedItems,
    find_items,
)

CACHED_VALUES = 2**16
"""Single values that are cached, of all features."""
CACHED_LISTS = 2**12
"""Lists that are cached, of all features."""
CACHED_LENGTH = 256
"""Longer texts are not cached, nor lists whose texts are longer in all."""
CACHED_ITEMS = 32
"""Longer lists are not cached."""
SINGLE = {int, bool, NoneType}
LISTED = {int, str, NoneType}


class EncodedValue(NamedTuple):
    """A value of one feature, encoded."""

    row: RowValue
    """What the row holds of it."""
    operands: Operands
    """What derived features take of it: (1)."""


class QueryValues:
    """Encodes values of the query features of one bundle. Safe to share between threads."""

    def __init__(self, encoders: Encoders, columns: Mapping[str, str], wanted: OperandNames) -> None:
        """
        Args:
            encoders: of the bundle.
            columns: of the features, by name.
            wanted: those that derived features take.
        """
        self._encoders, self._columns = encoders, columns
        self._wanted = {name: wanted.among([name]) for name in columns}
        self._single = lru_cache(maxsize=CACHED_VALUES, typed=True)(self._encode)
        self._lists = lru_cache(maxsize=CACHED_LISTS)(self._encode_list)

    def encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value of a feature. What is equal but of another type is another value: 1, 1.0, true and "1".

        Raises DataError, RequestError.
        """
        kind = type(value)
        if kind is str:
            known = len(value) <= CACHED_LENGTH
        elif kind is float:
            known = value != 0 or copysign(1, value) > 0  # -0.0 equals 0.0
        elif kind is list:
            return self._lists(name, tuple(value)) if _is_short(value) else self._encode(name, value)
        else:
            known = kind in SINGLE
        return self._single(name, value) if known else self._encode(name, value)

    def _encode_list(self, name: str, values: tuple[Any, ...]) -> EncodedValue:
        return self._encode(name, list(values))

    def _encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value by the code that packing uses, as a column of one row."""
        values, encoders = to_series(self._columns[name], [value], "request"), self._encoders
        row = to_row_value(encoders.schema.features[name], encoders.encode(name, values))
        return EncodedValue(row, Operands.of(encoders, self._wanted[name], lambda _: values, 1))


def _is_short(values: list[Any]) -> bool:
    """Whether a list is cached: of few whole numbers and texts, none of which equals one of another type."""
    if len(values) > CACHED_ITEMS or not LISTED.issuperset(map(type, values)):
        return False
    return sum(len(value) for value in values if type(value) is str) <= CACHED_LENGTH


@dataclass(frozen=True)
class QueryPart:
    """What a request says of its query, read as far as no item is looked up."""

    time: int
    """Of the request, ms since 1970 UTC."""
    values: Mapping[str, Any]
    """Columns of the user and the context."""
    histories: Mapping[str, RequestHistory]
    missing: list[str]
    """As in `EncodedRequest`, and `clipped`: of the query alone."""
    clipped: dict[str, int]


class QueryEncoder:
    """Encodes the user, the context and the histories of requests to one bundle."""

    def __init__(
        self, manifest: BundleManifest, encoders: Encoders, priors: PriorSnapshots, histories: HistoryEncoder
    ) -> None:
        self.schema: Schema = encoders.schema
        self._encoders, self._priors, self.histories = encoders, priors, histories
        self.counts_candidates = any(one.counts_candidates for one in self.schema.derived("query").values())
        """Whether a feature of the query needs the number of candidates."""
        self._placed = self.schema.row_features("query")
        self._user_column = manifest.user
        self._user_ids = manifest.user_ids
        columns, identity = (
            manifest.request_columns,
            {manifest.user} & set(self.schema.column_names(side="user")),
        )
        self._side_columns = {
            "user": frozenset(identity.union(columns.user, columns.histories)),
            "context": frozenset(columns.context),
        }
        self._columns = {name: self.schema.column(name) for name in plain_columns(self.schema, "query")}
        self._wanted = OperandNames.of(self.schema, "query").among(self._columns)
        self._vectors = [name for name in self._placed.vectors if name in self._columns]
        self._values = QueryValues(encoders, self._columns, self._wanted)

    def with_priors(self, priors: PriorSnapshots) -> Self:
        """Return the same encoder with other snapshots of priors."""
        other = copy(self)
        other._priors = priors
        return other

    def read_columns(self, request: Request, missing: list[str]) -> dict[str, Any]:
        """The columns of the user and the context by name; those that the request lacks are added to `missing`.

        Raises RequestError for a column that the bundle does not know.
        """
        columns: dict[str, Any] = {}
        user = {self._user_column if key == "id" else key: value for key, value in request.user.items()}
        self._check_user_id(user.get(self._user_column))
        for side, values in (("user", user), ("context", request.context)):
            wanted = self._side_columns[side]
            if values.keys() != wanted:
                for column in values.keys() - wanted - {self._user_column}:
                    refuse_unknown_column(side, column, wanted)
                absent = wanted - values.keys()
                missing += sorted(f"{side}.{'id' if c == self._user_column else c}" for c in absent)
            columns |= values
        return columns

    def _check_user_id(self, value: Any) -> None:
        """Raise RequestError for an id of another type than the log's: it would be logged, and trained on, as it is."""
        kind = int if type(value) is float and value.is_integer() else type(value)
        fits = {"text": (str,), "whole numbers": (int,), None: (int, str)}[self._user_ids]
        if value is not None and kind not in fits:
            expected = self._user_ids or "a whole number or text"
            raise RequestError(f"user.id: expected {expected}, as in the log; received {value!r:.100}")

    def encode(
        self, part: QueryPart, positions: Mapping[str, Longs], items: LayeredItems, candidates: int
    ) -> tuple[Rows, Operands]:
        """Encode the query of a request: its row and its operands, of 1 each.

        Args:
            part: what the request says of it.
            positions: of the items of histories that are looked up, by history.
            items: the catalogue.
            candidates: how many the request has.

        Raises DataError, RequestError.
        """
        schema, histories = self.schema, part.histories
        value = self._encode_values(part.values)
        row = {name: encoding.row for name, encoding in value.items()}
        gathered = self.histories.gather(items, histories, positions) if self.histories.needs_items else None
        operands = self._operands(value, gathered, histories)
        if derived := schema.derived("query"):
            sides = OperandRows.alone(schema, "query", operands)
            features = derive_features(
                schema, "query", sides, self._priors, np.array([part.time]), sizes=np.array([candidates])
            )
            encoded = encode_columns(self._encoders, features)
            row |= {name: to_row_value(derived[name], column) for name, column in encoded.items()}
        row |= self.histories.codes(histories)
        return self.histories.complete(assemble_row(self._placed, row), gathered), operands

    def _encode_values(self, columns: Mapping[str, Any]) -> dict[str, EncodedValue]:
        """Encode the values of the user and the context, by feature. Raises RequestError, which names the field."""
        values, encode = {}, self._values.encode
        for name, column in self._columns.items():
            try:
                values[name] = encode(name, columns.get(column))
            except DataError as error:
                raise RequestError(f"{self._field(name)}: {error}") from None
        return values

    def _operands(
        self,
        value: Mapping[str, EncodedValue],
        gathered: HistoryItems | None,
        histories: Mapping[str, RequestHistory],
    ) -> Operands:
        """The operands of the query: those of values, and those of histories."""
        wanted, (lists, means) = self._wanted, self.histories.operands(gathered, histories)
        vectors: dict[str, Any] = {name: value[name].row for name in self._vectors}
        return Operands(
            1,
            {name: value[name].operands.keys[name] for name in wanted.keys},
            {name: value[name].operands.lists[name] for name in wanted.lists} | lists,
            {name: value[name].operands.numbers[name] for name in wanted.numbers},
            vectors | means,
        )

    def _field(self, name: str) -> str:
        """The field of a request that a feature is read from."""
        column = self._columns[name]
        if column == self._user_column:
            return "user.id"
        return f"{'user' if column in self._side_columns['user'] else 'context'}.{column}"


@dataclass(frozen=True)
class QueryAhead:
    """The query of a request. The encoder that made it can use it, and no other: not that of other items."""

    encoder: object
    part: QueryPart
    events: Mapping[str, Longs]
    """Positions of the items of histories that are looked up, by history."""
    encoded: tuple[Rows, Operands] | None
    """The query's row and operands; None if a feature needs the number of candidates."""


def look_up_events(
    items: LayeredItems, part: QueryPart, *others: WantedItems
) -> tuple[Mapping[str, Longs], list[Longs]]:
    """Look up the items of histories, and of other lists with them: positions by history, and by list."""
    wanted = {name: history.wanted for name, history in part.histories.items() if history.wanted is not None}
    positions = find_items(items, [*wanted.values(), *others])
    return dict(zip(wanted, positions, strict=False)), positions[len(wanted) :]
