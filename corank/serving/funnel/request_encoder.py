"""A request → encoded rows, by the code that packing used.

Letters: n candidates · L events of a history.
"""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.bundle.retrieval import Where, filter_columns
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Longs
from corank.data.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Encoded
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.features.vocabulary import hash_values, to_identifiers
from corank.serving.funnel.request import Candidates, Request, candidates, series, unknown_column
from corank.serving.funnel.request_history import HistoryEncoder, RequestHistory, find

Retrieve = Callable[[Rows], Longs]
"""A query's row → the places of its candidates."""

KEPT = 2**16
"""Values of the query whose encoding is remembered."""
LONG = 256
"""Texts of more characters are not."""


@dataclass(frozen=True)
class EncodedRequest:
    """A request as the stages take it; the candidates that are known or described, in the order given."""

    ids: list[Any]
    query: Rows  # (1)
    items: LayeredItems
    """Those of the bundle, and those that the request describes."""
    place: Longs
    """(n,) Of the candidates among the items."""
    histories: dict[str, Rows]
    """By history that is attended to, its items, the newest last: (L)."""
    given: dict[str, Floats]
    """Those of the data's `columns` that came with the candidates: (n,)."""
    unknown: list[Any]
    missing: list[str]
    logged: dict[str, Encoded]
    """The crosses that came with the candidates."""
    operands: Operands
    """Of the query (1)."""
    time: int

    def column(self, name: str, alive: Longs) -> Floats:
        """One of the data's `columns`, of some candidates."""
        return self.given[name][alive] if name in self.given else self.items.column(name, self.place[alive])


class RequestEncoder:
    """Encodes requests for one bundle."""

    def __init__(
        self,
        manifest: BundleManifest,
        encoders: Encoders,
        items: LayeredItems,
        priors: PriorSnapshots,
        attended: Collection[str],
        named: Collection[str],
        vectors: Callable[[Rows], Mapping[str, Floats]],
    ) -> None:
        """`attended`: histories that some stage attends to; `named`: columns that some stage's value names.

        `vectors` gives those of items that a request describes.
        """
        self._manifest, self.encoders, self.items, self.priors = manifest, encoders, items, priors
        self.schema: Schema = encoders.schema
        self._named, self._vectors = named, vectors
        self.recall = HistoryEncoder(encoders, attended)
        self._columns = manifest.request_columns
        self.item_columns = frozenset(self._columns.item)
        self._pair_columns = frozenset((*self._columns.cross, *self._columns.values))
        self._query_columns = {name: self.schema.column(name) for name in self.schema.columns("query")}
        self._wanted = OperandNames.of(self.schema, "query").among(self._query_columns)
        # of one value, nearly always one that came before: a polars column costs more than all else
        encode = partial(_encoded, encoders, self._query_columns)
        self._encoded = lru_cache(maxsize=KEPT, typed=True)(encode)
        operand = partial(_operand, encoders, self._query_columns, self._wanted)
        self._operand = lru_cache(maxsize=KEPT, typed=True)(operand)

    def renewed(self, items: LayeredItems) -> Self:
        """The same with other items."""
        other = copy(self)
        other.items = items
        return other

    def encode(self, request: Request, retrieve: Retrieve | None = None) -> EncodedRequest:
        """With candidates from `retrieve` where the request brings none. Raises RequestError, which names the field."""
        missing: list[str] = []
        try:
            time = request.moment
            values = self._values(request, missing)
            past = self._past(request, time)
            query, operands = self._query(values, past, time)
            given, described, items, place = self._candidates(request, query, retrieve)
            unknown: list[Any] = []
            if place.min(initial=0) < 0:
                unknown = [given[n] for n in np.flatnonzero(place < 0)]
                known = np.flatnonzero(place >= 0)
                given, place = [given[n] for n in known], place[known]
                described = [described[n] for n in known] if described else described
            return EncodedRequest(
                ids=given,
                query=query,
                items=items,
                place=place,
                histories=self.recall.attended_rows(self.items, past),
                given={name: self._numbers(name, given, described) for name in self._columns.values},
                unknown=unknown,
                missing=missing,
                logged=self._logged(len(given), described, missing),
                operands=operands,
                time=time,
            )
        except DataError as error:
            raise RequestError(str(error)) from None

    def cross(self, received: EncodedRequest, alive: Longs) -> Rows:
        """The crosses of some candidates: those logged, and those derived."""
        columns = {
            name: column.take(alive) if isinstance(column, Ragged) else column[alive]
            for name, column in received.logged.items()
        }
        if self.schema.derived("cross"):
            items = received.items.operands(received.place[alive])
            request_of = np.zeros(len(alive), dtype=np.int64)
            sides = OperandRows.pairs(self.schema, received.operands, items, request_of, None)
            times = np.full(len(alive), received.time)
            columns |= encode_columns(
                self.encoders, derive_features(self.schema, "cross", sides, self.priors, times)
            )
        return assemble_rows(self.schema.row_features("cross"), columns, len(alive))

    def encode_items(self, ids: list[Any], columns: list[dict[str, Any]]) -> ItemLayer:
        """Items of the given columns, each once, as the records hold them. Raises RequestError."""
        for n, row in enumerate(columns):
            for column in row.keys() - self.item_columns:
                raise RequestError(f"{ids[n]!r}: {unknown_column(column, self.item_columns)}")
            for column in self._manifest.item_columns:
                if column in self._named:
                    _number(column, ids[n], row)
        find(self.items, ids, "items")  # of another type, they would be known by no one
        key, names = self._manifest.item, sorted(self.item_columns)
        try:
            given = [series(name, [row.get(name) for row in columns], "items") for name in names]
            frame = pl.DataFrame([to_identifiers(series("id", ids, "items"), "id").alias(key), *given])
            records = ItemRecords.of(frame, self.encoders, self.priors, key, self._manifest.item_columns)
        except DataError as error:
            raise RequestError(str(error)) from None
        return ItemLayer(records, self._vectors(records.rows))

    def _candidates(
        self, request: Request, query: Rows, retrieve: Retrieve | None
    ) -> tuple[list[Any], list[dict[str, Any]], LayeredItems, Longs]:
        """Ids, what else is given of them, the items, and where each is among them."""
        if request.candidates is not None:
            if request.where or request.retrieve:
                raise RequestError(
                    "candidates: where candidates are given, nothing is retrieved; drop one of both"
                )
            given = candidates(request)
            return given.ids, given.described, *self._places(given)
        if retrieve is None:
            raise RequestError("candidates: none are given, and the bundle has no `retrieval` to find some")
        place = retrieve(query)
        return self.items.ids(place), [], self.items, place

    def where(self, request: Request) -> Where:
        """What a request filters by, as hashes. Raises RequestError for a column that is no filter, or its values."""
        columns = filter_columns(self.schema)
        found = []
        for column, values in request.where.items():
            if column not in columns:
                raise RequestError(f"where: {unknown_column(column, set(columns))}")
            listed = values if isinstance(values, list) else [values]
            try:
                hashed = hash_values(series(column, listed, "where"), columns[column])
            except DataError as error:
                raise RequestError(f"where: {error}") from None
            found.append((columns[column], tuple(sorted(set(hashed.tolist()) - {0}))))
        return tuple(sorted(found))

    def _places(self, given: Candidates) -> tuple[LayeredItems, Longs]:
        """The items, and where each candidate is among them, −1 for one neither known nor described."""
        ids, described = given.ids, given.described
        place = find(self.items, ids, "candidates", given.numbers)
        if not described:
            return self.items, place
        allowed = self.item_columns | self._pair_columns
        for n, columns in enumerate(described):
            for column in columns.keys() - allowed:
                raise RequestError(f"candidates.{n}: {unknown_column(column, allowed)}")
        new = [n for n in np.flatnonzero(place < 0) if not self.item_columns.isdisjoint(described[n])]
        if not new:
            return self.items, place
        rows = [{c: v for c, v in described[n].items() if c in self.item_columns} for n in new]
        items = self.items.with_layer(self.encode_items([ids[n] for n in new], rows))
        place[new] = find(items, [ids[n] for n in new], "candidates")
        return items, place

    def _numbers(self, name: str, ids: list[Any], described: list[dict[str, Any]]) -> Floats:
        """One of the data's `columns`. Raises RequestError where a candidate has no number that it is ordered by."""
        if name not in self._named:
            return np.full(len(ids), np.nan, dtype=np.float32)
        rows: list[dict[str, Any]] = described or [{} for _ in ids]
        return np.array([_number(name, id_, row) for id_, row in zip(ids, rows, strict=True)], np.float32)

    def _values(self, request: Request, missing: list[str]) -> dict[str, Any]:
        """What the request says of the query, by column."""
        user = self._manifest.user
        values: dict[str, Any] = {}
        given = {user if key == "id" else key: value for key, value in request.user.items()}
        for side, columns in (("user", given), ("context", request.context)):
            wanted, histories = self._sides[side]
            if columns.keys() != wanted | histories:
                for column in columns.keys() - wanted - histories - {user}:
                    raise RequestError(f"{side}: {unknown_column(column, set(wanted | histories))}")
                absent = (wanted | histories) - columns.keys()
                missing += sorted(f"{side}.{'id' if c == user else c}" for c in absent)
            values |= columns
        return values

    def _past(self, request: Request, time: int) -> dict[str, RequestHistory]:
        return {
            name: self.recall.past(name, request.user.get(name), self.items, time)
            for name in self.schema.histories()
        }

    def _query(
        self, values: dict[str, Any], past: dict[str, RequestHistory], time: int
    ) -> tuple[Rows, Operands]:
        schema, wanted = self.schema, self._wanted
        of = {name: values.get(column) for name, column in self._query_columns.items()}
        columns: dict[str, Encoded] = {name: self._one(self._encoded, name, of[name]) for name in of}
        operands = Operands(
            1,
            {name: self._one(self._operand, name, of[name]).keys[name] for name in wanted.keys},
            {name: self._one(self._operand, name, of[name]).lists[name] for name in wanted.lists},
            {name: self._one(self._operand, name, of[name]).numbers[name] for name in wanted.numbers},
        )
        recalled = self.recall.of(self.items, past) if self.recall.needed else None
        operands = operands.with_lists(self.recall.operands(recalled, past))
        if schema.derived("query"):
            sides = OperandRows.alone(schema, "query", operands)
            found = derive_features(schema, "query", sides, self.priors, np.array([time]))
            columns |= encode_columns(self.encoders, found)
        columns |= self.recall.lists(past)
        return self.recall.rows(assemble_rows(schema.row_features("query"), columns, 1), recalled), operands

    def _one(self, kept: Callable[[str, Any], Any], name: str, value: Any) -> Any:
        """By what is remembered, if it can be."""
        if type(value) in (int, float, bool) or value is None or (type(value) is str and len(value) <= LONG):
            return kept(name, value)
        return kept.__wrapped__(name, value)  # type: ignore[attr-defined]

    def _logged(self, n: int, described: list[dict[str, Any]], missing: list[str]) -> dict[str, Encoded]:
        columns = sorted(self._columns.cross)
        rows: list[dict[str, Any]] = described or [{}] * n
        missing += [f"cross.{c}" for c in columns if any(c not in row for row in rows)]
        given = [series(c, [row.get(c) for row in rows], "candidates") for c in columns]
        return self.encoders.encode_frame("cross", pl.DataFrame(given)) if columns else {}

    @cached_property
    def _sides(self) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        """The columns of the user's features, and of the context's, and the histories."""
        columns, id_ = self._columns, self._manifest.user
        identity = {id_} & set(self.schema.column_names(side="user"))
        return {
            "user": (frozenset(columns.user) | identity, frozenset(columns.histories)),
            "context": (frozenset(columns.context), frozenset()),
        }


def _encoded(encoders: Encoders, columns: Mapping[str, str], name: str, value: Any) -> Encoded:
    """One value of a query's feature."""
    return encoders.encode(name, series(columns[name], [value], "request"))


def _operand(
    encoders: Encoders, columns: Mapping[str, str], wanted: OperandNames, name: str, value: Any
) -> Operands:
    """One value of a query's feature, as crosses take it."""
    values = series(columns[name], [value], "request")
    return Operands.of(encoders, wanted.among([name]), lambda _: values, 1)


def _number(name: str, id_: Any, row: Mapping[str, Any]) -> float:
    value: Any = row.get(name)
    if type(value) not in (int, float) or not np.isfinite(value):
        raise RequestError(
            f"candidates: {id_!r} has no number '{name}', by which candidates are ordered; received {value!r}"
        )
    return float(value)
