"""The query side of requests → encoded rows, by the code that packing used.

What the row and derived features take of a value of the user or the context is cached: values repeat, and a column of
one value costs more to build than a whole query that is cached.

Letters: R requests.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from math import copysign
from types import NoneType
from typing import Any, Self

import numpy as np

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors, concat_vectors
from corank.core.subnormal import flush_subnormals
from corank.core.types import Longs
from corank.features.encoders import Encoders
from corank.features.encoding import Column
from corank.features.history import EventAge
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.row_encoder import RowEncoder
from corank.features.schema import Schema
from corank.serving.funnel.ranking import EncodedValue, Ranking
from corank.serving.funnel.request import Request, refuse_unknown_column, to_series
from corank.serving.funnel.request_history import HistoryEncoder

CACHED_VALUES = 2**16
"""Single values that are cached, of all features."""
CACHED_LISTS = 2**12
"""Lists that are cached, of all features."""
CACHED_LENGTH = 256
"""Longer texts are not cached, nor lists whose texts are longer in all."""
CACHED_ITEMS = 32
"""Longer lists are not cached."""
USER_IDS = {"text": (str,), "whole numbers": (int,), None: (int, str)}
"""The types that an id of a user may have, by what the log has."""
SINGLE = {int, bool, NoneType}
LISTED = {int, str, NoneType}


class QueryValues:
    """Encodes values of the query features of one bundle. Safe to share between threads."""

    def __init__(self, encoder: RowEncoder) -> None:
        """`encoder` is that of the query's rows."""
        self._columns, encoders = encoder.columns, encoder.encoders
        self._encoders = {name: RowEncoder(encoders, "query", (name,)) for name in self._columns}
        self._coded = frozenset(n for n in self._columns if encoders.schema.features[n].storage == "id")
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
        column = self._columns[name]
        features, taken = self._encoders[name].encode({column: to_series(column, [value], "request")}, 1)
        row: Any = features[name]
        if isinstance(row, np.ndarray):
            row = int(row[0]) if name in self._coded else row.ravel()
        key, number = taken.keys.get(name), taken.numbers.get(name)
        return EncodedValue(
            row,
            None if key is None else int(key[0]),
            taken.lists.get(name),
            None if number is None else float(number[0]),
        )


def _is_short(values: list[Any]) -> bool:
    """Whether a list is cached: of few whole numbers and texts, none of which equals one of another type."""
    if len(values) > CACHED_ITEMS or not LISTED.issuperset(map(type, values)):
        return False
    return sum(len(value) for value in values if type(value) is str) <= CACHED_LENGTH


class QueryEncoder:
    """Encodes the user, the context and the histories of requests to one bundle."""

    def __init__(
        self, manifest: BundleManifest, encoders: Encoders, priors: PriorSnapshots, histories: HistoryEncoder
    ) -> None:
        self.schema: Schema = encoders.schema
        self._priors, self.histories = priors, histories
        self._rows = RowEncoder(encoders, "query")
        self.counts_candidates = any(feature.counts_candidates for feature, _ in self._rows.derived.values())
        """Whether a feature of the query needs the number of candidates."""
        self._user_column, self._user_ids = manifest.user, manifest.user_ids
        columns, identity = (
            manifest.request_columns,
            {manifest.user} & set(self.schema.column_names(side="user")),
        )
        self._side_columns = {
            "user": frozenset(identity.union(columns.user, columns.histories)),
            "context": frozenset(columns.context),
        }
        self.columns = self._rows.columns
        """The column of each feature of one."""
        self._values = QueryValues(self._rows)
        self._plan()

    def _plan(self) -> None:
        """Say where the value of each feature of a column goes, of rows and of operands."""
        placed, wanted = self._rows.placed, self._rows.operands
        number_of = {name: n for n, name in enumerate(self.columns)}
        self._ids = [(at, number_of[name]) for at, name in enumerate(placed.ids) if name in number_of]
        self._numbers = [(at, number_of[n]) for n, at in placed.numbers_at.items() if n in number_of]
        self._lists = [number_of.get(name) for name in placed.lists]
        self._vectors = [(name, number_of[name]) for name in placed.vectors]
        self._operands = [
            [(name, number_of[name]) for name in names]
            for names in (wanted.keys, wanted.lists, wanted.numbers)
        ]

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
        if value is not None and kind not in USER_IDS[self._user_ids]:
            expected = self._user_ids or "a whole number or text"
            raise RequestError(f"user.id: expected {expected}, as in the log; received {value!r:.100}")

    def encode_values(self, columns: Mapping[str, Any]) -> list[EncodedValue]:
        """Encode the values of the user and the context, in the order of `columns`.

        Raises RequestError, which names the field.
        """
        values, encode = [], self._values.encode
        for name, column in self.columns.items():
            try:
                values.append(encode(name, columns.get(column)))
            except DataError as error:
                raise RequestError(f"{self._field(name)}: {error}") from None
        return values

    def encode(
        self,
        parts: Sequence[Ranking],
        positions: Mapping[str, Longs],
        items: LayeredItems,
        candidates: Sequence[int],
    ) -> tuple[Rows, Operands]:
        """Encode the queries of R requests: their rows and their operands.

        Args:
            parts: of the requests, whose queries were read.
            positions: of the items of histories that are looked up, by history, one request after the other.
            items: the catalogue.
            candidates: how many each request has: (R,).

        Raises DataError, RequestError.
        """
        histories = {name: [part.histories[name] for part in parts] for name in parts[0].histories}
        gathered = self.histories.gather(items, histories, positions) if self.histories.needs_items else None
        operands = self._join_operands(parts, *self.histories.operands(gathered, histories))
        derived: Mapping[str, Column] = {}
        if self._rows.derived:
            sides = OperandRows.alone(self.schema.operand_placements, "query", operands)
            times, sizes = np.array([part.time for part in parts]), np.array(candidates)
            derived = self._rows.derive(sides, self._priors, times, sizes)
        rows = self._assemble(parts, derived, self.histories.codes(histories))
        return self.histories.complete(rows, gathered), operands

    def _assemble(
        self, parts: Sequence[Ranking], derived: Mapping[str, Column], codes: Mapping[str, Ragged]
    ) -> Rows:
        """Put values, derived features and the codes of histories together as R rows."""
        placed, values = self._rows.placed, [part.values for part in parts]
        ids = np.empty((len(parts), len(placed.ids)), dtype=np.int32)
        numbers = np.empty((len(parts), placed.width), dtype=np.float32)
        for r, of in enumerate(values):
            for at, n in self._ids:
                ids[r, at] = of[n].row
            for columns, n in self._numbers:
                numbers[r, columns] = of[n].row
        for name, column in derived.items():
            if name in placed.numbers_at:
                numbers[:, placed.numbers_at[name]] = column.reshape(len(parts), -1)
            else:
                ids[:, placed.ids.index(name)] = column
        lists = [
            codes[name] if n is None else join_lists([of[n].row for of in values])
            for name, n in zip(placed.lists, self._lists, strict=True)
        ]
        vectors = tuple(concat_vectors([of[n].row for of in values]) for _, n in self._vectors)
        return Rows(ids, flush_subnormals(numbers), tuple(lists), vectors)

    def _join_operands(
        self,
        parts: Sequence[Ranking],
        listed: Mapping[str, Ragged],
        means: Mapping[str, Vectors],
        ages: dict[tuple[str, EventAge], Ragged],
    ) -> Operands:
        """The operands of R queries: those of values, and those of histories."""
        values, (keys, lists, numbers) = [part.values for part in parts], self._operands
        vectors = {name: concat_vectors([of[n].row for of in values]) for name, n in self._vectors}
        return Operands(
            len(parts),
            {name: np.array([of[n].key for of in values], dtype=np.uint64) for name, n in keys},
            {**{name: join_lists([of[n].hashes for of in values]) for name, n in lists}, **listed},
            {name: np.array([of[n].number for of in values], dtype=np.float64) for name, n in numbers},
            {**vectors, **means},
            ages,
        )

    def _field(self, name: str) -> str:
        """The field of a request that a feature is read from."""
        column = self.columns[name]
        if column == self._user_column:
            return "user.id"
        return f"{'user' if column in self._side_columns['user'] else 'context'}.{column}"


def join_lists(lists: Sequence[Ragged]) -> Ragged:
    """Concatenate the lists of requests, without a copy of a single one."""
    return lists[0] if len(lists) == 1 else lists[0].concat(*lists[1:])
