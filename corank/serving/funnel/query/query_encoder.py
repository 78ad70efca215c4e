"""The query side of a request → its encoded row, by the code that packing used."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Rows
from corank.core.types import Longs
from corank.data.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, assemble_row, to_row_value
from corank.features.histories.sources import plain_columns
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.serving.funnel.query.query_values import EncodedValue, QueryValues
from corank.serving.funnel.query.request_history import HistoryEncoder, HistoryItems, RequestHistory
from corank.serving.funnel.request import Request, refuse_unknown_column


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
        fits = type(value) is int or (type(value) is float and value.is_integer())
        if self._user_ids == "text":
            fits = type(value) is str
        elif self._user_ids is None:
            fits = fits or type(value) is str
        if value is not None and not fits:
            expected = self._user_ids or "a whole number or text"
            raise RequestError(f"user.id: expected {expected}, as in the log; received {value!r:.100}")

    def read_histories(self, request: Request, text: bool, time: int) -> dict[str, RequestHistory]:
        """Read and encode all histories of a request.

        Args:
            request: to rank.
            text: whether ids of items are text.
            time: of the request, ms since 1970 UTC.

        Raises RequestError.
        """
        return {
            name: self.histories.encode(name, request.user, text, time) for name in self.schema.histories()
        }

    def encode(
        self,
        columns: Mapping[str, Any],
        histories: Mapping[str, RequestHistory],
        positions: Mapping[str, Longs],
        items: LayeredItems,
        time: int,
        candidates: int,
    ) -> tuple[Rows, Operands]:
        """Encode the query of a request: its row and its operands, of 1 each.

        Args:
            columns: of the user and the context, by name.
            histories: of the user, by name.
            positions: of the items of histories that are looked up, by history.
            items: the catalogue.
            time: of the request, ms since 1970 UTC.
            candidates: how many it has.

        Raises DataError, RequestError.
        """
        schema = self.schema
        value = self._encode_values(columns)
        row = {name: encoding.row for name, encoding in value.items()}
        gathered = self.histories.gather(items, histories, positions) if self.histories.needs_items else None
        operands = self._operands(value, gathered, histories)
        if derived := schema.derived("query"):
            sides = OperandRows.alone(schema, "query", operands)
            features = derive_features(
                schema, "query", sides, self._priors, np.array([time]), sizes=np.array([candidates])
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
        wanted = self._wanted
        vectors: dict[str, Any] = {name: value[name].row for name in self._vectors}
        return Operands(
            1,
            {name: value[name].operands.keys[name] for name in wanted.keys},
            {name: value[name].operands.lists[name] for name in wanted.lists}
            | self.histories.operands(gathered, histories),
            {name: value[name].operands.numbers[name] for name in wanted.numbers},
            vectors | self.histories.mean_vectors(gathered),
        )

    def _field(self, name: str) -> str:
        """The field of a request that a feature is read from."""
        column = self._columns[name]
        if column == self._user_column:
            return "user.id"
        return f"{'user' if column in self._side_columns['user'] else 'context'}.{column}"
