"""Requests → encoded rows of their queries and their candidates, by the code that packing used.

And what comes with candidates: their ids, numbers, and the filters of their retrieval.

Letters: R requests · n candidates of all of them · E events of a history of all of them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.bundle.retrieval import Where, filter_columns
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs
from corank.data.packed.derived_columns import Plan, encode_features, plan_features
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import (
    FIRST_KNOWN,
    Column,
    Encoded,
    Hash,
    Vocabulary,
    as_int64,
    hash_values,
    to_identifiers,
)
from corank.features.feature_kind import Side
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.schema import Schema
from corank.serving.funnel.query_encoder import QueryEncoder, QueryPart
from corank.serving.funnel.request import (
    NumberIds,
    Request,
    RequestWarning,
    refuse_unknown_column,
    to_series,
)
from corank.serving.funnel.request_history import (
    AttendedEvents,
    HistoryEncoder,
    WantedItems,
    find_items,
    join_arrays,
)

LARGEST = float(np.finfo(np.float32).max)
"""Values are 32-bit floats, in training as here."""


ReadCandidates = tuple[Sequence[Any], Longs | None, list[dict[str, Any]]]
"""The candidates of a request, in the order given: their ids, these as an array if all are whole numbers, and the
columns given with each; none if no candidate has any."""


def parse_candidates(request: Request) -> ReadCandidates:
    """Read the candidates of a request that has some. Raises RequestError for one that has no id or is given twice."""
    ids: Any = request.candidates
    columns: list[dict[str, Any]] = []
    if isinstance(ids, NumberIds):
        numbers: Longs | None = ids.numbers
    else:
        numbers = as_int64(ids)
        if numbers is None and not set(map(type, ids)) <= {int, str}:
            ids, columns = _split_columns(ids)
            numbers = as_int64(ids)
    if _repeats(ids, numbers):
        ((twice, _),) = Counter(ids).most_common(1)
        raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
    return ids, numbers, columns


def _repeats(ids: Sequence[Any], numbers: Longs | None) -> bool:
    if numbers is not None:
        # the lower halves of whole numbers are sorted in half the time, and are seldom equal where the numbers differ
        halves = numbers.astype(np.int32)
        halves.sort()
        if not np.count_nonzero(halves[1:] == halves[:-1]):
            return False
    return len(set(ids)) < len(ids)


def select_ids(ids: Sequence[Any], index: Longs) -> Sequence[Any]:
    """Select some ids."""
    return NumberIds(ids.numbers[index]) if isinstance(ids, NumberIds) else [ids[n] for n in index.tolist()]


def _split_columns(candidates: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Split candidates into their ids, and the columns given with each."""
    ids: list[Any] = []
    columns: list[dict[str, Any]] = []
    for n, candidate in enumerate(candidates):
        fields = dict(candidate) if isinstance(candidate, dict) else {"id": candidate}
        if type(fields.get("id")) not in (int, str):
            raise RequestError(
                f"candidates.{n}: needs an `id`, a whole number or text; received {candidate!r}"
            )
        ids.append(fields.pop("id"))
        columns.append(fields)
    return ids, columns


def read_numbers(name: str, ids: Sequence[Any], columns: list[dict[str, Any]], needed: bool) -> Floats:
    """Read one of the data's `columns` of n candidates, NaN if no stage needs it: (n,).

    Raises RequestError if a candidate lacks what a stage needs, or has something else there.
    """
    if needed:
        rows: list[dict[str, Any]] = columns or [{}] * len(ids)
        return np.array([read_number(name, id_, row) for id_, row in zip(ids, rows, strict=True)], np.float32)
    for row in columns:  # the log keeps what no stage needs
        value = row.get(name)
        if value is not None and not _is_number(value):
            raise RequestError(f"candidates: expected numbers in '{name}'; received {value!r:.100}")
    return np.full(len(ids), np.nan, dtype=np.float32)


def read_number(name: str, id_: Any, row: Mapping[str, Any]) -> float:
    """Read one of the data's `columns` of a candidate, or an item. Raises RequestError if it lacks it."""
    value: Any = row.get(name)
    if not _is_number(value):
        raise RequestError(
            f"candidates: {id_!r} has no number '{name}', by which candidates are ordered; received {value!r}"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


class FilterEncoder:
    """Encodes and checks the filters of requests to one bundle."""

    def __init__(self, encoders: Encoders) -> None:
        self._columns = filter_columns(encoders.schema)
        self._encoders = encoders.fitted

    def encode(self, request: Request) -> Where:
        """Encode the filters of a request.

        Raises RequestError for a column that is no filter, and for values of another type than the items'.
        """
        filters = []
        for column, values in request.where.items():
            if column not in self._columns:
                refuse_unknown_column("where", column, set(self._columns))
            try:
                hashed = hash_values(self._read(column, values), self._columns[column])
            except DataError as error:
                raise RequestError(f"where: {error}") from None
            filters.append((self._columns[column], tuple(sorted(set(hashed.tolist()) - {0}))))
        return tuple(sorted(filters))

    def warn(self, request: Request) -> list[RequestWarning]:
        """Say why no item passes the filters of a request, if it has any."""
        if not request.where:
            return []
        strange = [column for column, values in request.where.items() if not self._is_known(column, values)]
        reason = f"the bundle knows no such {', '.join(strange)}" if strange else "no item has them all"
        return [RequestWarning("filter", f"where: no item passes; {reason}")]

    def _read(self, column: str, values: Any) -> pl.Series:
        """The values of a filter. Raises RequestError or DataError for values of another type than the items'."""
        listed = values if isinstance(values, list) else [values]
        read = to_identifiers(to_series(column, listed, "where"), self._columns[column])
        dtype = self._type(column)
        if dtype is not None and read.dtype != dtype and read.null_count() < len(read):
            expected = "text" if dtype == pl.String else "whole numbers"
            value = next(value for value in listed if value is not None)
            raise RequestError(
                f"where.{column}: expected {expected}, as in the bundle; received {value!r:.100}"
            )
        return read

    def _type(self, column: str) -> pl.DataType | None:
        """The type of a column's values; None if the bundle has none."""
        encoder = self._encoders.get(self._columns[column])
        if isinstance(encoder, Vocabulary):
            return encoder.dtype if len(encoder.values) else None
        return encoder.dtype if isinstance(encoder, Hash) else None

    def _is_known(self, column: str, values: Any) -> bool:
        """Whether training knew some value of a filter, as far as the bundle can tell."""
        encoder = self._encoders.get(self._columns[column])
        if not isinstance(encoder, Vocabulary):
            return True
        codes = encoder.codes(self._read(column, values), self._columns[column])
        return bool((codes >= FIRST_KNOWN).any())


class NumberLimits:
    """The ranges of training of one bundle's numbers, by side and column."""

    def __init__(self, encoders: Encoders) -> None:
        schema = encoders.schema
        self._limits: dict[Side, dict[str, tuple[float, float]]] = {}
        for name, feature in schema.columns().items():
            encoder = encoders.fitted.get(name)
            if feature.is_input and encoder is not None and encoder.limits is not None:
                self._limits.setdefault(feature.side, {})[schema.column(name)] = encoder.limits

    def count(self, sides: Iterable[Side], rows: Iterable[Mapping[str, Any]], found: dict[str, int]) -> None:
        """Add to `found`, by `SIDE.COLUMN`, the numbers of rows of some sides that are clipped."""
        for row in rows:
            for side in sides:
                for column, (low, high) in self._limits.get(side, {}).items():
                    value: Any = row.get(column)
                    if type(value) in (int, float) and not low <= value <= high:
                        name = f"{side}.{column}"
                        found[name] = found.get(name, 0) + 1


@dataclass(slots=True)
class EncodedRequest:
    """What a request has of its own; its candidates are those known or described, in the order given."""

    request: Request
    part: QueryPart
    ids: Sequence[Any]
    """Of its candidates."""
    numbers: Longs | None
    """The ids given, if all are whole numbers."""
    columns: list[dict[str, Any]]
    """The columns given with each candidate; empty if no candidate has any."""
    ahead: "QueryAhead | None"
    missing: list[str]
    """Columns that the request lacks."""
    clipped: Mapping[str, int]
    """By `SIDE.COLUMN`, how many numbers lie outside the range of training; they are clipped to it."""
    warnings: list[RequestWarning]
    unknown: list[Any] = field(default_factory=list)
    """Ids of candidates that are left out: neither known nor described."""

    @property
    def time(self) -> int:
        """Of the request, ms since 1970 UTC."""
        return self.part.time


@dataclass
class EncodedBatch:
    """R requests as the stages read them: n candidates, those of one request after those of another."""

    encoder: "RequestEncoder"
    requests: Sequence[EncodedRequest]
    start: list[int]
    """Where the candidates of each request begin, and the end: (R + 1,)."""
    request_of: Longs
    """The request of each candidate: (n,)."""
    query: Rows
    """The rows of the queries: (R)."""
    operands: Operands
    """Operands of the queries: (R)."""
    items: LayeredItems
    """The catalogue, and the items that the requests describe."""
    positions: Longs
    """Positions of the candidates in `items`: (n,)."""
    events: dict[str, AttendedEvents]
    """By history that a stage attends to."""
    given: dict[str, Floats]
    """Numeric `columns` of the data that came with the candidates, by name: (n,)."""
    times: Longs
    """Of the requests, ms since 1970 UTC: (R,)."""
    crosses: dict[str, Encoded] = field(default_factory=dict)
    """Crosses that came with the candidates, and those that compare all candidates, by feature: (n)."""

    @property
    def everyone(self) -> Longs:
        """The indices of all candidates: (n,)."""
        return np.arange(len(self.positions))

    def among_all(self, candidates: Mapping[int, Longs]) -> Longs:
        """Indices among all candidates, from those that count from the first candidate of each request: (n,)."""
        if len(self.requests) == 1:
            return candidates[0]
        return np.concatenate([self.start[r] + of for r, of in candidates.items()])

    def column(self, name: str, alive: Longs) -> Floats:
        """One of the data's `columns`, of the candidates `alive`."""
        return (
            self.given[name][alive] if name in self.given else self.items.column(name, self.positions[alive])
        )


@dataclass(frozen=True)
class QueryAhead:
    """The query of a request. The encoder that made it can use it, and no other: not that of other items."""

    encoder: object
    part: QueryPart
    events: Mapping[str, Longs]
    """Positions of the items of histories that are looked up, by history."""
    encoded: tuple[Rows, Operands] | None
    """The query's row and operands; None if a feature needs the number of candidates."""


QUERY_SIDES: tuple[Side, ...] = ("user", "context")
CANDIDATE_SIDES: tuple[Side, ...] = ("item", "cross")
Retrieve = Callable[[Request, Rows, int], Longs]
"""A request, the rows of queries, and which of them is its own → positions of retrieved items."""


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
        self._logged = OperandNames.of(self.schema, "cross", crosses.values())
        self._comparing = frozenset(name for name, feature in crosses.items() if feature.compares_candidates)
        self._late_crosses = frozenset(crosses.keys() - self._comparing)
        self._plan = cache(partial(_plan_crosses, encoders))
        self._histories = tuple(self.schema.histories())
        self._cross_row, self._item_row = self.schema.row_features("cross"), self.schema.row_features("item")
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

    def read(
        self, request: Request, retrieves: bool = False, ahead: QueryAhead | None = None
    ) -> EncodedRequest:
        """Read a request as far as no item is looked up.

        Its candidates can be retrieved or not, and its query may have been encoded ahead.

        Raises RequestError, which names the field.
        """
        try:
            if ahead is not None and ahead.encoder is not self:
                ahead = None
            part = self.read_query(request) if ahead is None else ahead.part
            given = self._read_candidates(request, retrieves)
            warnings = [warning for history in part.histories.values() for warning in history.warnings]
            return EncodedRequest(request, part, *given, ahead, [*part.missing], part.clipped, warnings)
        except DataError as error:
            raise RequestError(str(error)) from None

    def encode(self, requests: Sequence[EncodedRequest], retrieve: Retrieve | None = None) -> EncodedBatch:
        """Encode requests that were read, each once, with candidates from `retrieve` for those that bring none.

        Raises RequestError.
        """
        try:
            return self._encode(requests, retrieve)
        except DataError as error:
            raise RequestError(str(error)) from None

    def _encode(self, requests: Sequence[EncodedRequest], retrieve: Retrieve | None) -> EncodedBatch:
        parts, items = [one.part for one in requests], self.items
        candidates = [WantedItems("candidates", one.ids, one.numbers) for one in requests]
        ahead = requests[0].ahead if len(requests) == 1 else None
        if ahead is not None:
            positions, events = find_items(items, candidates), ahead.events
        else:
            positions, events = self._look_up(parts, candidates)
        query, operands = (ahead and ahead.encoded) or self.query.encode(
            parts, events, items, [self.count_candidates(one.request) for one in requests]
        )
        if positions.min(initial=0) < 0 or any(
            one.columns or one.request.candidates is None for one in requests
        ):
            items, positions = self._settle(requests, positions, query, retrieve)
        start = [0, *accumulate(len(one.ids) for one in requests)]
        attended = {n: [part.histories[n] for part in parts] for n in self.query.histories.attended}
        batch = EncodedBatch(
            self,
            requests,
            start,
            _repeat(start),
            query,
            operands,
            items,
            positions,
            self.query.histories.attended_events(self.items, attended, events),
            {},
            np.array([part.time for part in parts]),
        )
        if self._value_columns or self._cross_columns or self._comparing:
            self._add_given(batch)
        return batch

    def _look_up(
        self, parts: Sequence[QueryPart], candidates: Sequence[WantedItems] = ()
    ) -> tuple[Longs, dict[str, Longs]]:
        """Look up candidates, and by history the items of those whose items are looked up: positions."""
        names = self.query.histories.looked_up
        wanted: list[list[WantedItems | None]] = [
            [*candidates],
            *([part.histories[name].wanted for part in parts] for name in names),
        ]
        every = [one for group in wanted for one in group if one is not None]
        if not every:
            return np.empty(0, dtype=np.int64), {}
        positions = find_items(self.items, every)
        ends = [*accumulate(sum(one.size for one in group if one is not None) for group in wanted)]
        events = {name: positions[a:b] for name, a, b in zip(names, ends, ends[1:], strict=False)}
        return positions[: ends[0]], events

    def count_candidates(self, request: Request) -> int:
        """How many candidates a request gives, or asks to retrieve."""
        given = request.candidates
        return len(given) if given is not None else request.retrieve or self._retrieved

    def _settle(
        self,
        requests: Sequence[EncodedRequest],
        positions: Longs,
        query: Rows,
        retrieve: Retrieve | None,
    ) -> tuple[LayeredItems, Longs]:
        """Retrieve candidates, encode those that are described, and leave unknown ones out.

        Args:
            requests: R, which are changed.
            positions: of all candidates, −1 for those that are not known.
            query: the queries' rows: (R).
            retrieve: finds candidates.
        """
        items, settled, begin = self.items, [], 0
        for r, one in enumerate(requests):
            own = positions[begin : begin + len(one.ids)]
            begin += len(one.ids)
            if one.request.candidates is None and retrieve is not None:
                own = retrieve(one.request, query, r)
                one.ids = items.ids(own)
            elif one.columns:
                items, own = self._add_described(one.ids, one.columns, own, items)
            if own.min(initial=0) < 0:
                one.unknown = [*select_ids(one.ids, np.flatnonzero(own < 0))]
                known = np.flatnonzero(own >= 0)
                one.ids, own = select_ids(one.ids, known), own[known]
                one.columns = [one.columns[n] for n in known] if one.columns else []
            if not len(own):
                one.warnings += self.filters.warn(one.request)
            if one.columns:
                one.clipped = {**one.clipped}
                self._limits.count(CANDIDATE_SIDES, one.columns, one.clipped)
            settled.append(own)
        return items, join_arrays(settled)

    def read_query(self, request: Request) -> QueryPart:
        """Read what a request says of its query, for which its candidates need not be known.

        Raises DataError, RequestError.
        """
        missing: list[str] = []
        clipped: dict[str, int] = {}
        time, columns = request.time_ms, self.query.read_columns(request, missing)
        self._limits.count(QUERY_SIDES, [columns], clipped)
        encode, text = self.query.histories.encode, self.items.text
        histories = {name: encode(name, request.user, text, time) for name in self._histories}
        return QueryPart(time, self.query.encode_values(columns), histories, missing, clipped)

    def prepare(self, request: Request) -> QueryAhead:
        """Encode the query of a request whose candidates are not known yet. Raises RequestError."""
        try:
            part = self.read_query(request)
            _, events = self._look_up([part])
            encoded = (
                None if self.query.counts_candidates else self.query.encode([part], events, self.items, [0])
            )
        except DataError as error:
            raise RequestError(str(error)) from None
        return QueryAhead(self, part, events, encoded)

    def cross(self, batch: EncodedBatch, alive: Longs) -> Rows:
        """The crosses of the candidates `alive`: those encoded with the requests, and the others, derived."""
        columns = {name: _take(column, alive) for name, column in batch.crosses.items()}
        if self._late_crosses:
            columns |= self.derive(batch, alive, self._late_crosses)
        return assemble_rows(self._cross_row, columns, len(alive))

    def _add_given(self, batch: EncodedBatch) -> None:
        """Add what came with the candidates, and crosses that compare all, before stages drop some.

        Each request's is read by itself, since the type of a column is that of its values.
        """
        given, crosses, logged = [], [], []
        for one in batch.requests:
            count, rows = len(one.ids), one.columns or _NOTHING * len(one.ids)
            numbers = {
                n: read_numbers(n, one.ids, one.columns, n in self._named) for n in self._value_columns
            }
            given.append(numbers)
            if self._cross_columns:
                crosses.append(self._encode_crosses(rows, one.missing))
            if self._comparing:

                def read_logged(name: str, rows: Sequence[Mapping[str, Any]] = rows) -> pl.Series:
                    column = self.schema.column(name)
                    return to_series(column, [row.get(column) for row in rows], "candidates")

                logged.append(Operands.of(self.encoders, self._logged, read_logged, count))
        batch.given = {name: join_arrays([one[name] for one in given]) for name in self._value_columns}
        if crosses:
            batch.crosses = {name: _join([one[name] for one in crosses]) for name in crosses[0]}
        if logged:
            operands = logged[0].concat(*logged[1:])
            batch.crosses |= self.derive(batch, batch.everyone, self._comparing, operands)

    def derive(
        self, batch: EncodedBatch, alive: Longs, names: frozenset[str], logged: Operands | None = None
    ) -> dict[str, Column]:
        """Some derived crosses of the candidates `alive`, encoded."""
        plan, taken = self._plan(names)
        positions, request_of = batch.positions.take(alive), batch.request_of.take(alive)
        items = batch.items.operands(positions, taken)
        if self._item_row.vectors:
            items = items.with_vectors(self._item_row, batch.items.rows(positions))
        sides = OperandRows.pairs(self.schema, batch.operands, items, request_of, None, logged)
        return encode_features(plan, sides, self.priors, batch.times.take(request_of))

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

    def _read_candidates(self, request: Request, retrieves: bool) -> ReadCandidates:
        """Read the candidates of a request; none if they are to be retrieved. Raises RequestError."""
        if request.candidates is None:
            if not retrieves:
                raise RequestError(
                    "candidates: none are given, and the bundle has no `retrieval` to find some"
                )
            return [], None, []
        if request.where or request.retrieve:
            raise RequestError(
                "candidates: where candidates are given, nothing is retrieved; drop one of both"
            )
        return parse_candidates(request)

    def _add_described(
        self, ids: Sequence[Any], columns: list[dict[str, Any]], positions: Longs, items: LayeredItems
    ) -> tuple[LayeredItems, Longs]:
        """The items with those that a request describes, and its candidates' positions among them.

        Args:
            ids: of the candidates.
            columns: given with each.
            positions: theirs among the known items, −1 for others; so for one that is not described either.
            items: those known, and those that other requests describe.
        """
        for n, row in enumerate(columns):
            for column in row.keys() - self._allowed_columns:
                refuse_unknown_column(f"candidates.{n}", column, self._allowed_columns)
        new = [
            n for n in np.flatnonzero(positions < 0).tolist() if not self.item_columns.isdisjoint(columns[n])
        ]
        if not new:
            return items, positions
        rows = [{c: v for c, v in columns[n].items() if c in self.item_columns} for n in new]
        described = LayeredItems((self.encode_items([ids[n] for n in new], rows),))
        positions = positions.copy()
        positions[new] = find_items(described, [WantedItems("candidates", [ids[n] for n in new])])
        positions[new] += items.bounds[-1]
        return items.with_layer(described.layers[0]), positions

    def _encode_crosses(self, rows: Sequence[Mapping[str, Any]], missing: list[str]) -> dict[str, Encoded]:
        """The logged crosses of a request's candidates; columns that some candidate lacks are added to `missing`."""
        missing += [f"cross.{c}" for c in self._cross_columns if any(c not in row for row in rows)]
        series = [to_series(c, [row.get(c) for row in rows], "candidates") for c in self._cross_columns]
        try:
            return self.encoders.encode_frame("cross", pl.DataFrame(series))
        except DataError as error:
            raise RequestError(f"candidates: {error}") from None


def _plan_crosses(encoders: Encoders, names: frozenset[str]) -> tuple[Plan, frozenset[str]]:
    """Some derived crosses, and the operands that they take of items."""
    plan = plan_features(encoders, "cross", names)
    operands = OperandNames.of(encoders.schema, "item", (feature for _, feature, _ in plan))
    return plan, frozenset(operands.names)


_NOTHING: list[dict[str, Any]] = [{}]


def _repeat(start: list[int]) -> Longs:
    """The request of each candidate, from where those of each request begin: (n,)."""
    if len(start) == 2:
        return np.zeros(start[1], dtype=np.int64)
    return np.repeat(np.arange(len(start) - 1), np.diff(start))


def _take(column: Encoded, index: Longs) -> Encoded:
    return column.take(index) if isinstance(column, Ragged | Vectors) else column[index]


def _join(columns: Sequence[Any]) -> Encoded:
    """Concatenate an encoded feature of several requests."""
    first, *others = columns
    joined: Encoded = join_arrays(columns) if isinstance(first, np.ndarray) else first.concat(*others)
    return joined
