"""A request → encoded rows of its query and its candidates, by the code that packing used.

Letters: n candidates · L events of a history.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs
from corank.data.packed.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Encoded, to_identifiers
from corank.features.feature_kind import Side
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.serving.funnel.candidates import (
    CandidateList,
    FilterEncoder,
    NumberLimits,
    parse_candidates,
    read_number,
    read_numbers,
    select_ids,
)
from corank.serving.funnel.query_encoder import QueryAhead, QueryEncoder, QueryPart, look_up_events
from corank.serving.funnel.request import Request, RequestWarning, refuse_unknown_column, to_series
from corank.serving.funnel.request_history import HistoryEncoder, WantedItems, find_items


@dataclass(frozen=True)
class EncodedRequest:
    """A request as the stages read it; its candidates are those known or described, in the order given."""

    ids: Sequence[Any]
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
    crosses: dict[str, Encoded]
    """Crosses that came with the candidates, and those that compare all candidates, by feature: (n)."""
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


QUERY_SIDES: tuple[Side, ...] = ("user", "context")
CANDIDATE_SIDES: tuple[Side, ...] = ("item", "cross")
Retrieve = Callable[[Rows], Longs]
"""A query's row → positions of retrieved items."""


class RequestEncoder:
    """Encodes requests to one bundle. Safe to share between threads."""

    def __init__(
        self,
        manifest: BundleManifest,
        encoders: Encoders,
        items: LayeredItems,
        priors: PriorSnapshots,
        named: Collection[str],
        parts: Callable[[Rows], Mapping[str, StoredMatrix]],
        retrieved: int = 0,
    ) -> None:
        """
        Args:
            manifest: of the bundle.
            encoders: of the bundle.
            items: the catalogue.
            priors: of the bundle.
            named: columns that the value of some stage names.
            parts: computes what stages keep of items that a request describes.
            retrieved: how many candidates are retrieved for a request that brings none, and names no number.
        """
        self._manifest, self.encoders, self.items, self.priors = manifest, encoders, items, priors
        self._retrieved = retrieved
        self.schema: Schema = encoders.schema
        self._named, self._parts = named, parts
        self._limits = NumberLimits(encoders)
        histories = HistoryEncoder(encoders, manifest)
        self.query = QueryEncoder(manifest, encoders, priors, histories)
        self.filters = FilterEncoder(encoders)
        columns = manifest.request_columns
        self._value_columns, self._cross_columns = columns.values, sorted(columns.cross)
        crosses = self.schema.derived("cross")
        self._crossed = OperandNames.of(self.schema, "item", crosses.values()).names
        self._logged = OperandNames.of(self.schema, "cross", crosses.values())
        self._comparing = [name for name, feature in crosses.items() if feature.compares_candidates]
        self.item_columns = frozenset(columns.item)
        self._allowed_columns = self.item_columns.union(columns.cross, columns.values)

    def with_items(self, items: LayeredItems) -> Self:
        """Return the same encoder with another catalogue."""
        other = copy(self)
        other.items = items
        return other

    def with_priors(self, priors: PriorSnapshots) -> Self:
        """Return the same encoder with other snapshots of priors."""
        other = copy(self)
        other.priors, other.query = priors, self.query.with_priors(priors)
        return other

    def encode(
        self, request: Request, retrieve: Retrieve | None = None, ahead: QueryAhead | None = None
    ) -> EncodedRequest:
        """Encode a request, with candidates from `retrieve` if it brings none, and the query `ahead` if there is one.

        Raises RequestError, which names the field.
        """
        try:
            part = self.read_query(request) if ahead is None else ahead.part
            candidate_list = self._read_candidates(request, retrieve)
            candidates = WantedItems("candidates", candidate_list.ids, candidate_list.numbers)
            if ahead is None:
                events, (positions,) = look_up_events(self.items, part, candidates)
            else:
                events, (positions,) = ahead.events, find_items(self.items, [candidates])
            given = request.candidates
            count = len(given) if given is not None else request.retrieve or self._retrieved
            query, operands = (ahead and ahead.encoded) or self.query.encode(part, events, self.items, count)
            ids, columns, items = candidate_list.ids, candidate_list.columns, self.items
            if retrieve is not None and given is None:
                positions = retrieve(query)
                ids = items.ids(positions)
            elif columns:
                items, positions = self._add_described(candidate_list, positions)
            unknown: list[Any] = []
            if positions.min(initial=0) < 0:
                unknown = [*select_ids(ids, np.flatnonzero(positions < 0))]
                known = np.flatnonzero(positions >= 0)
                ids, positions = select_ids(ids, known), positions[known]
                columns = [columns[n] for n in known] if columns else columns
            missing, clipped = [*part.missing], {**part.clipped}
            self._limits.count(CANDIDATE_SIDES, columns, clipped)
            histories = part.histories.values()
            encoded = EncodedRequest(
                ids=ids,
                query=query,
                items=items,
                positions=positions,
                histories=self.query.histories.attended_rows(self.items, part.histories, events),
                ages={
                    name: history.ages for name, history in part.histories.items() if history.ages is not None
                },
                given={
                    name: read_numbers(name, ids, columns, needed=name in self._named)
                    for name in self._value_columns
                },
                unknown=unknown,
                missing=missing,
                clipped=clipped,
                crosses=self._encode_crosses(len(ids), columns, missing),
                operands=operands,
                time=part.time,
                warnings=[
                    *(warning for history in histories for warning in history.warnings),
                    *([] if len(positions) else self.filters.warn(request)),
                ],
            )
            return self._compare(encoded, columns) if self._comparing else encoded
        except DataError as error:
            raise RequestError(str(error)) from None

    def read_query(self, request: Request) -> QueryPart:
        """Read what a request says of its query, for which its candidates need not be known.

        Raises DataError, RequestError.
        """
        missing: list[str] = []
        clipped: dict[str, int] = {}
        time, values = request.time_ms, self.query.read_columns(request, missing)
        self._limits.count(QUERY_SIDES, [values], clipped)
        encode, text = self.query.histories.encode, self.items.text
        histories = {name: encode(name, request.user, text, time) for name in self.schema.histories()}
        return QueryPart(time, values, histories, missing, clipped)

    def prepare(self, request: Request) -> QueryAhead:
        """Encode the query of a request whose candidates are not known yet. Raises RequestError."""
        try:
            part = self.read_query(request)
            events, _ = look_up_events(self.items, part)
            encoded = None if self.query.counts_candidates else self.query.encode(part, events, self.items, 0)
        except DataError as error:
            raise RequestError(str(error)) from None
        return QueryAhead(self, part, events, encoded)

    def cross(self, request: EncodedRequest, alive: Longs) -> Rows:
        """The crosses of the candidates `alive`: those encoded with the request, and the others, derived."""
        columns = {
            name: column.take(alive) if isinstance(column, Ragged | Vectors) else column[alive]
            for name, column in request.crosses.items()
        }
        others = self.schema.derived("cross").keys() - columns.keys()
        columns |= self.derive(request, alive, others) if others else {}
        return assemble_rows(self.schema.row_features("cross"), columns, len(alive))

    def _compare(self, request: EncodedRequest, columns: list[dict[str, Any]]) -> EncodedRequest:
        """Add the crosses that compare all candidates, which came with `columns`, before stages drop some."""
        count = len(request.ids)

        def read_logged(name: str) -> pl.Series:
            column = self.schema.column(name)
            return to_series(column, [row.get(column) for row in columns or [{}] * count], "candidates")

        logged = Operands.of(self.encoders, self._logged, read_logged, count)
        compared = self.derive(request, np.arange(count), self._comparing, logged)
        return replace(request, crosses=request.crosses | compared)

    def derive(
        self, request: EncodedRequest, alive: Longs, names: Collection[str], logged: Operands | None = None
    ) -> dict[str, Encoded]:
        """Some derived crosses of the candidates `alive`, encoded."""
        items = request.items.operands(request.positions[alive], self._crossed)
        placed = self.schema.row_features("item")
        if placed.vectors:
            items = items.with_vectors(placed, request.items.rows(request.positions[alive]))
        request_of = np.zeros(len(alive), dtype=np.int64)
        sides = OperandRows.pairs(self.schema, request.operands, items, request_of, None, logged)
        times = np.full(len(alive), request.time)
        values = derive_features(self.schema, "cross", sides, self.priors, times, names)
        return encode_columns(self.encoders, values)

    def encode_items(self, ids: list[Any], columns: list[dict[str, Any]]) -> ItemLayer:
        """Encode items of the given columns, each once, as a catalogue layer. Raises RequestError."""
        for n, row in enumerate(columns):
            for column in row.keys() - self.item_columns:
                refuse_unknown_column(repr(ids[n]), column, self.item_columns)
            for column in self._manifest.item_columns:
                if column in self._named:
                    read_number(column, ids[n], row)
        find_items(self.items, [WantedItems("items", ids)])  # ids of another type could never be found
        key, names = self._manifest.item, sorted(self.item_columns)
        try:
            series = [to_series(name, [row.get(name) for row in columns], "items") for name in names]
            frame = pl.DataFrame([to_identifiers(to_series("id", ids, "items"), "id").alias(key), *series])
            records = ItemRecords.encode(frame, self.encoders, self.priors, key, self._manifest.item_columns)
            return ItemLayer(records, self._parts(records.rows))
        except DataError as error:
            raise RequestError(str(error)) from None

    def _read_candidates(self, request: Request, retrieve: Retrieve | None) -> CandidateList:
        """Read the candidates of a request; none if they are to be retrieved. Raises RequestError."""
        if request.candidates is None:
            if retrieve is None:
                raise RequestError(
                    "candidates: none are given, and the bundle has no `retrieval` to find some"
                )
            return CandidateList([], None, [])
        if request.where or request.retrieve:
            raise RequestError(
                "candidates: where candidates are given, nothing is retrieved; drop one of both"
            )
        return parse_candidates(request)

    def _add_described(self, candidates: CandidateList, positions: Longs) -> tuple[LayeredItems, Longs]:
        """The items with those that the request describes, and the candidates' positions among them.

        Args:
            candidates: the candidates, with columns.
            positions: theirs among the known items, −1 for others; so for one that is not described either.
        """
        ids, columns = candidates.ids, candidates.columns
        for n, row in enumerate(columns):
            for column in row.keys() - self._allowed_columns:
                refuse_unknown_column(f"candidates.{n}", column, self._allowed_columns)
        new = [
            n for n in np.flatnonzero(positions < 0).tolist() if not self.item_columns.isdisjoint(columns[n])
        ]
        if not new:
            return self.items, positions
        rows = [{c: v for c, v in columns[n].items() if c in self.item_columns} for n in new]
        items = self.items.with_layer(self.encode_items([ids[n] for n in new], rows))
        positions = positions.copy()
        (positions[new],) = find_items(items, [WantedItems("candidates", [ids[n] for n in new])])
        return items, positions

    def _encode_crosses(
        self, n: int, columns: list[dict[str, Any]], missing: list[str]
    ) -> dict[str, Encoded]:
        """The logged crosses of n candidates; columns that some candidate lacks are added to `missing`."""
        if not self._cross_columns:
            return {}
        rows: list[dict[str, Any]] = columns or [{}] * n
        missing += [f"cross.{c}" for c in self._cross_columns if any(c not in row for row in rows)]
        series = [to_series(c, [row.get(c) for row in rows], "candidates") for c in self._cross_columns]
        try:
            return self.encoders.encode_frame("cross", pl.DataFrame(series))
        except DataError as error:
            raise RequestError(f"candidates: {error}") from None
