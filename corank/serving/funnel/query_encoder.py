"""The query side of a request → its encoded row, by the code that packing used."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Rows, Vectors
from corank.data.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Encoded
from corank.features.histories.sources import plain_columns
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.serving.funnel.request import Request, refuse_unknown_column, to_series
from corank.serving.funnel.request_history import HistoryEncoder, RequestHistory

CACHED_VALUES = 2**16
"""Values of query features whose encoding is cached."""
CACHED_LENGTH = 256
"""Longer texts are not cached."""


class QueryEncoder:
    """Encodes the user, the context and the histories of requests to one bundle."""

    def __init__(
        self, manifest: BundleManifest, encoders: Encoders, priors: PriorSnapshots, histories: HistoryEncoder
    ) -> None:
        self.schema: Schema = encoders.schema
        self._encoders, self._priors, self.histories = encoders, priors, histories
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
        # cached, since values repeat, and building a polars column of one value costs more than all the rest
        encode = partial(_encode_value, encoders, self._columns)
        self._encode_value = lru_cache(maxsize=CACHED_VALUES, typed=True)(encode)
        operand = partial(_encode_operand, encoders, self._columns, self._wanted)
        self._encode_operand = lru_cache(maxsize=CACHED_VALUES, typed=True)(operand)

    def read_columns(self, request: Request, missing: list[str]) -> dict[str, Any]:
        """The columns of the user and the context by name; those that the request lacks are added to `missing`.

        Raises RequestError for a column that the bundle does not know.
        """
        columns: dict[str, Any] = {}
        user = {self._user_column if key == "id" else key: value for key, value in request.user.items()}
        self._check_user_id(user.get(self._user_column))
        for side, given in (("user", user), ("context", request.context)):
            wanted = self._side_columns[side]
            if given.keys() != wanted:
                for column in given.keys() - wanted - {self._user_column}:
                    refuse_unknown_column(side, column, wanted)
                absent = wanted - given.keys()
                missing += sorted(f"{side}.{'id' if c == self._user_column else c}" for c in absent)
            columns |= given
        return columns

    def _check_user_id(self, value: Any) -> None:
        """Raise RequestError for an id of another type than the log's: it would be logged, and trained on, as it is."""
        fits = type(value) is int or (type(value) is float and value.is_integer())
        if self._user_ids == "text":
            fits = type(value) is str
        elif self._user_ids is None:
            fits = fits or type(value) is str
        if value is not None and not fits:
            expected = self._user_ids or "a whole number or text"
            raise RequestError(f"user.id: expected {expected}, as in the log; received {value!r:.100}")

    def encode_histories(self, request: Request, items: LayeredItems, time: int) -> dict[str, RequestHistory]:
        """Encode all histories of a request, at a time in ms since 1970 UTC. Raises RequestError."""
        return {
            name: self.histories.encode(name, request.user, items, time) for name in self.schema.histories()
        }

    def encode(
        self,
        columns: dict[str, Any],
        histories: dict[str, RequestHistory],
        items: LayeredItems,
        time: int,
        candidates: int,
    ) -> tuple[Rows, Operands]:
        """Encode the query of a request: its row and its operands, of 1 each.

        Args:
            columns: of the user and the context, by name.
            histories: of the user, by name.
            items: the catalogue.
            time: of the request, ms since 1970 UTC.
            candidates: how many it has.

        Raises DataError, RequestError.
        """
        schema, wanted = self.schema, self._wanted
        value = {name: columns.get(column) for name, column in self._columns.items()}
        row: dict[str, Encoded] = {}
        for name in value:
            try:
                row[name] = _cached(self._encode_value, name, value[name])
            except DataError as error:
                raise RequestError(f"{self._field(name)}: {error}") from None
        operands = Operands(
            1,
            {name: _cached(self._encode_operand, name, value[name]).keys[name] for name in wanted.keys},
            {name: _cached(self._encode_operand, name, value[name]).lists[name] for name in wanted.lists},
            {name: _cached(self._encode_operand, name, value[name]).numbers[name] for name in wanted.numbers},
        )
        gathered = self.histories.gather(items, histories) if self.histories.needs_items else None
        operands = operands.with_lists(self.histories.operands(gathered, histories))
        vectors = {name: held for name, held in row.items() if isinstance(held, Vectors)}
        operands = operands.with_named_vectors(vectors | self.histories.mean_vectors(gathered))
        if schema.derived("query"):
            sides = OperandRows.alone(schema, "query", operands)
            found = derive_features(
                schema, "query", sides, self._priors, np.array([time]), sizes=np.array([candidates])
            )
            row |= encode_columns(self._encoders, found)
        row |= self.histories.codes(histories)
        return self.histories.complete(
            assemble_rows(schema.row_features("query"), row, 1), gathered
        ), operands

    def _field(self, name: str) -> str:
        """The field of a request that a feature is read from."""
        column = self._columns[name]
        if column == self._user_column:
            return "user.id"
        return f"{'user' if column in self._side_columns['user'] else 'context'}.{column}"


def _cached(function: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    """Call a cached function; bypass its cache for values that are long or cannot be hashed."""
    if type(value) in (int, float, bool) or value is None:
        return function(name, value)
    if type(value) is str and len(value) <= CACHED_LENGTH:
        return function(name, value)
    return function.__wrapped__(name, value)  # type: ignore[attr-defined]


def _encode_value(encoders: Encoders, columns: Mapping[str, str], name: str, value: Any) -> Encoded:
    """Encode one value of a query feature."""
    return encoders.encode(name, to_series(columns[name], [value], "request"))


def _encode_operand(
    encoders: Encoders, columns: Mapping[str, str], wanted: OperandNames, name: str, value: Any
) -> Operands:
    """Encode one value of a query feature as an operand of crosses."""
    values = to_series(columns[name], [value], "request")
    return Operands.of(encoders, wanted.among([name]), lambda _: values, 1)
