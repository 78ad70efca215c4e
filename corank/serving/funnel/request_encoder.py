"""A request → encoded rows of its query and its candidates, by the code that packing used.

Letters: n candidates · L events of a history.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.matrices.stored_matrix import StoredMatrix
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.types import Floats, Longs
from corank.data.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Encoded
from corank.features.feature_kind import Side
from corank.features.operand_rows import OperandRows
from corank.features.operands import Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.features.vocabulary import to_identifiers
from corank.serving.funnel.checks.filter_encoder import FilterEncoder
from corank.serving.funnel.checks.request_warnings import RequestWarning
from corank.serving.funnel.number_limits import NumberLimits
from corank.serving.funnel.query_encoder import QueryEncoder
from corank.serving.funnel.request import (
    CandidateList,
    Request,
    parse_candidates,
    refuse_unknown_column,
    to_series,
)
from corank.serving.funnel.request_history import HistoryEncoder, find_items

LARGEST = float(np.finfo(np.float32).max)
"""Values are 32-bit floats, in training as here."""

QUERY_SIDES: tuple[Side, ...] = ("user", "context")
CANDIDATE_SIDES: tuple[Side, ...] = ("item", "cross")
Retrieve = Callable[[Rows], Longs]
"""A query's row → positions of retrieved items."""


@dataclass(frozen=True)
class EncodedRequest:
    """A request as the stages read it; its candidates are those known or described, in the order given."""

    ids: list[Any]
    query: Rows
    """The query's row: (1)."""
    items: LayeredItems
    """The catalogue, and the items that the request describes."""
    positions: Longs
    """Positions of the candidates in `items`: (n,)."""
    histories: dict[str, Rows]
    """By history that a stage attends to, the rows of its items, the newest last: (L)."""
    ages: dict[str, Floats]
    """By history of whose events a stage reads the ages, these, as `log_ages` says them: (L,)."""
    given: dict[str, Floats]
    """Numeric `columns` of the data that came with the candidates, by name: (n,)."""
    unknown: list[Any]
    """Ids of candidates that are left out: neither known nor described."""
    missing: list[str]
    """Columns that the request lacks."""
    clipped: Mapping[str, int]
    """By `SIDE.COLUMN`, how many numbers lie outside the range of training; they are clipped to it."""
    logged: dict[str, Encoded]
    """Crosses that came with the candidates, by feature: (n)."""
    operands: Operands
    """Operands of the query: (1)."""
    time: int
    """Time of the request, ms since 1970 UTC."""
    warnings: list[RequestWarning]

    def column(self, name: str, alive: Longs) -> Floats:
        """One of the data's `columns`, of the candidates `alive`."""
        return (
            self.given[name][alive] if name in self.given else self.items.column(name, self.positions[alive])
        )


class RequestEncoder:
    """Encodes requests to one bundle. Safe to share between threads."""

    def __init__(
        self,
        manifest: BundleManifest,
        encoders: Encoders,
        items: LayeredItems,
        priors: PriorSnapshots,
        named: Collection[str],
        vectors: Callable[[Rows], Mapping[str, StoredMatrix]],
        retrieved: int = 0,
    ) -> None:
        """
        Args:
            manifest: of the bundle.
            encoders: of the bundle.
            items: the catalogue.
            priors: of the bundle.
            named: columns that the value of some stage names.
            vectors: computes the vectors of items that a request describes.
            retrieved: how many candidates are retrieved for a request that brings none, and names no number.
        """
        self._manifest, self.encoders, self.items, self.priors = manifest, encoders, items, priors
        self._retrieved = retrieved
        self.schema: Schema = encoders.schema
        self._named, self._vectors = named, vectors
        self._limits = NumberLimits(encoders)
        histories = HistoryEncoder(encoders, manifest)
        self.query = QueryEncoder(manifest, encoders, priors, histories)
        self.filters = FilterEncoder(encoders)
        columns = manifest.request_columns
        self._value_columns, self._cross_columns = columns.values, sorted(columns.cross)
        self.item_columns = frozenset(columns.item)
        self._allowed_columns = self.item_columns.union(columns.cross, columns.values)

    def with_items(self, items: LayeredItems) -> Self:
        """Return the same encoder with another catalogue."""
        other = copy(self)
        other.items = items
        return other

    def encode(self, request: Request, retrieve: Retrieve | None = None) -> EncodedRequest:
        """Encode a request, with candidates from `retrieve` if it brings none.

        Raises RequestError, which names the field.
        """
        missing: list[str] = []
        clipped: Counter[str] = Counter()
        try:
            time = request.time_ms
            values = self.query.read_columns(request, missing)
            for side in QUERY_SIDES:
                self._limits.count(side, [values], clipped)
            histories = self.query.encode_histories(request, self.items, time)
            query, operands = self.query.encode(
                values, histories, self.items, time, self._count_candidates(request)
            )
            ids, columns, items, positions = self._find_candidates(request, query, retrieve)
            unknown: list[Any] = []
            if positions.min(initial=0) < 0:
                unknown = [ids[n] for n in np.flatnonzero(positions < 0)]
                known = np.flatnonzero(positions >= 0)
                ids, positions = [ids[n] for n in known], positions[known]
                columns = [columns[n] for n in known] if columns else columns
            for side in CANDIDATE_SIDES:
                self._limits.count(side, columns, clipped)
            return EncodedRequest(
                ids=ids,
                query=query,
                items=items,
                positions=positions,
                histories=self.query.histories.attended_rows(self.items, histories),
                ages={name: held.ages for name, held in histories.items() if held.ages is not None},
                given={name: self._read_numbers(name, ids, columns) for name in self._value_columns},
                unknown=unknown,
                missing=missing,
                clipped=clipped,
                logged=self._encode_crosses(len(ids), columns, missing),
                operands=operands,
                time=time,
                warnings=[
                    *(warning for history in histories.values() for warning in history.warnings),
                    *([] if len(positions) else self.filters.warn(request)),
                ],
            )
        except DataError as error:
            raise RequestError(str(error)) from None

    def _count_candidates(self, request: Request) -> int:
        """How many candidates a request has, or asks to retrieve."""
        if request.candidates is not None:
            return len(request.candidates)
        return request.retrieve or self._retrieved

    def cross(self, request: EncodedRequest, alive: Longs) -> Rows:
        """The crosses of the candidates `alive`: logged ones and derived ones."""
        columns = {
            name: column.take(alive) if isinstance(column, Ragged | Vectors) else column[alive]
            for name, column in request.logged.items()
        }
        if self.schema.derived("cross"):
            items = request.items.operands(request.positions[alive])
            placed = self.schema.row_features("item")
            if placed.vectors:
                items = items.with_vectors(placed, request.items.rows(request.positions[alive]))
            request_of = np.zeros(len(alive), dtype=np.int64)
            sides = OperandRows.pairs(self.schema, request.operands, items, request_of, None)
            times = np.full(len(alive), request.time)
            columns |= encode_columns(
                self.encoders, derive_features(self.schema, "cross", sides, self.priors, times)
            )
        return assemble_rows(self.schema.row_features("cross"), columns, len(alive))

    def encode_items(self, ids: list[Any], columns: list[dict[str, Any]]) -> ItemLayer:
        """Encode items of the given columns, each once, as a catalogue layer. Raises RequestError."""
        for n, row in enumerate(columns):
            for column in row.keys() - self.item_columns:
                refuse_unknown_column(repr(ids[n]), column, self.item_columns)
            for column in self._manifest.item_columns:
                if column in self._named:
                    _read_number(column, ids[n], row)
        find_items(self.items, ids, "items")  # ids of another type could never be found
        key, names = self._manifest.item, sorted(self.item_columns)
        try:
            given = [to_series(name, [row.get(name) for row in columns], "items") for name in names]
            frame = pl.DataFrame([to_identifiers(to_series("id", ids, "items"), "id").alias(key), *given])
            records = ItemRecords.encode(frame, self.encoders, self.priors, key, self._manifest.item_columns)
            return ItemLayer(records, self._vectors(records.rows))
        except DataError as error:
            raise RequestError(str(error)) from None

    def _find_candidates(
        self, request: Request, query: Rows, retrieve: Retrieve | None
    ) -> tuple[list[Any], list[dict[str, Any]], LayeredItems, Longs]:
        """The candidates' ids, their given columns, the items, and the candidates' positions among these."""
        if request.candidates is not None:
            if request.where or request.retrieve:
                raise RequestError(
                    "candidates: where candidates are given, nothing is retrieved; drop one of both"
                )
            given = parse_candidates(request)
            return given.ids, given.columns, *self._locate(given)
        if retrieve is None:
            raise RequestError("candidates: none are given, and the bundle has no `retrieval` to find some")
        positions = retrieve(query)
        return self.items.ids(positions), [], self.items, positions

    def _locate(self, given: CandidateList) -> tuple[LayeredItems, Longs]:
        """The items, and the candidates' positions among them, −1 for one neither known nor described."""
        ids, columns = given.ids, given.columns
        positions = find_items(self.items, ids, "candidates", given.numbers)
        if not columns:
            return self.items, positions
        for n, row in enumerate(columns):
            for column in row.keys() - self._allowed_columns:
                refuse_unknown_column(f"candidates.{n}", column, self._allowed_columns)
        new = [n for n in np.flatnonzero(positions < 0) if not self.item_columns.isdisjoint(columns[n])]
        if not new:
            return self.items, positions
        rows = [{c: v for c, v in columns[n].items() if c in self.item_columns} for n in new]
        items = self.items.with_layer(self.encode_items([ids[n] for n in new], rows))
        positions[new] = find_items(items, [ids[n] for n in new], "candidates")
        return items, positions

    def _read_numbers(self, name: str, ids: list[Any], columns: list[dict[str, Any]]) -> Floats:
        """One of the data's `columns`, NaN if no stage needs it. Raises RequestError if a candidate lacks it."""
        if name not in self._named:
            _check_numbers(name, columns)
            return np.full(len(ids), np.nan, dtype=np.float32)
        rows: list[dict[str, Any]] = columns or [{} for _ in ids]
        return np.array(
            [_read_number(name, id_, row) for id_, row in zip(ids, rows, strict=True)], np.float32
        )

    def _encode_crosses(
        self, n: int, columns: list[dict[str, Any]], missing: list[str]
    ) -> dict[str, Encoded]:
        """The logged crosses of n candidates; columns that some candidate lacks are added to `missing`."""
        if not self._cross_columns:
            return {}
        rows: list[dict[str, Any]] = columns or [{}] * n
        missing += [f"cross.{c}" for c in self._cross_columns if any(c not in row for row in rows)]
        given = [to_series(c, [row.get(c) for row in rows], "candidates") for c in self._cross_columns]
        try:
            return self.encoders.encode_frame("cross", pl.DataFrame(given))
        except DataError as error:
            raise RequestError(f"candidates: {error}") from None


def _read_number(name: str, id_: Any, row: Mapping[str, Any]) -> float:
    value: Any = row.get(name)
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise RequestError(
            f"candidates: {id_!r} has no number '{name}', by which candidates are ordered; received {value!r}"
        )
    return float(value)


def _check_numbers(name: str, columns: list[dict[str, Any]]) -> None:
    """Raise RequestError if a value that no stage needs, but the log keeps, is no number."""
    for row in columns:
        value = row.get(name)
        if value is not None and (type(value) not in (int, float) or not abs(value) <= LARGEST):
            raise RequestError(f"candidates: expected numbers in '{name}'; received {value!r:.100}")
