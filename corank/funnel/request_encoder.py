"""Requests that were read → encoded rows of their queries and their candidates, by the code that packing used.

The items that requests name, as candidates and in histories, are looked up in the catalogue at once.

Letters: R requests · n candidates of all of them · E events of a history of all of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate, chain, pairwise, repeat
from operator import contains
from types import NoneType
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError, RequestError
from corank.core.ragged import Rows
from corank.core.stored_matrix import StoredMatrix
from corank.core.subnormal import flush_subnormals
from corank.core.types import Floats, Longs
from corank.features.encoders import Encoders
from corank.features.encoding import Column, Encoded, take_encoded, to_identifiers
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.row_encoder import EncodedColumns, RowEncoder
from corank.features.schema import Schema
from corank.funnel.filters import FilterEncoder
from corank.funnel.query_encoder import AttendedEvents, QueryEncoder, join_arrays
from corank.funnel.ranking import Ranking, WantedItems
from corank.funnel.request import Request, read_nulls, refuse_unknown_column, select_ids, to_series
from corank.funnel.request_reader import count_clipped, number_limits


@dataclass
class EncodedBatch:
    """R requests as the stages read them: n candidates, those of one request after those of another."""

    encoder: "RequestEncoder"
    requests: Sequence[Ranking]
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
    given: dict[str, Floats] = field(default_factory=dict)
    """Numeric `columns` of the data that came with the candidates, by name: (n,)."""
    crosses: dict[str, Encoded] = field(default_factory=dict)
    """Crosses that came with the candidates, and those that compare all candidates, by feature: (n)."""

    @property
    def times(self) -> Longs:
        """Of the requests, ms since 1970 UTC: (R,)."""
        return np.array([one.time for one in self.requests])

    @property
    def everyone(self) -> Longs:
        """The indices of all candidates: (n,)."""
        return np.arange(len(self.positions))

    def column(self, name: str, alive: Longs) -> Floats:
        """One of the data's `columns`, of the candidates `alive`."""
        return (
            self.given[name][alive] if name in self.given else self.items.column(name, self.positions[alive])
        )


Retrieve = Callable[[Request, Rows, int], Longs]
"""A request, the rows of queries, and which of them is its own → positions of retrieved items."""
ItemsAsOf = Callable[[LayeredItems, Longs, Longs, bool], tuple[LayeredItems, Longs]]
"""Items, positions of some, (P,), −1 for unknown ones, a time for each, (P,), and whether stages score them → items
that include each as it was at its time, and where these are: (P,)."""


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
        self.schema: Schema = encoders.schema
        self._named, self._parts = named, parts
        self._as_of: ItemsAsOf | None = None
        self._limits = number_limits(encoders, ("item", "cross"))
        self.query = QueryEncoder(manifest, encoders, priors, retrieved)
        self.filters = FilterEncoder(encoders)
        columns = manifest.request_columns
        self._value_columns, self._cross_columns = columns.values, sorted(columns.cross)
        self._cross, crosses = RowEncoder(encoders, "cross"), self.schema.derived("cross")
        self._comparing = frozenset(name for name, feature in crosses.items() if feature.compares_candidates)
        self._late_crosses = frozenset(crosses.keys() - self._comparing)
        self._plan = cache(partial(_plan_crosses, encoders))
        self._item_row = self.schema.row_features("item")
        self.item_columns = frozenset(columns.item)
        self._allowed_columns = self.item_columns.union(columns.cross, columns.values)

    def with_items(self, items: LayeredItems) -> Self:
        """Return the same encoder with another catalogue."""
        other = copy(self)
        other.items = items
        return other

    def with_past(self, priors: PriorSnapshots, as_of: ItemsAsOf) -> Self:
        """Return the same encoder with what was known at the time of each request: snapshots of priors, and items."""
        other = copy(self)
        other.priors, other.query, other._as_of = priors, self.query.with_priors(priors), as_of
        return other

    def encode(self, requests: Sequence[Ranking], retrieve: Retrieve | None = None) -> EncodedBatch:
        """Encode requests that were read, each once, with candidates from `retrieve` for those that bring none.

        Raises RequestError.
        """
        try:
            return self._encode(requests, retrieve)
        except DataError as error:
            raise RequestError(str(error)) from None

    def _encode(self, requests: Sequence[Ranking], retrieve: Retrieve | None) -> EncodedBatch:
        items, ahead = self.items, None
        candidates: list[WantedItems] = [
            ("candidates", one.candidates if one.numbers is None else one.numbers) for one in requests
        ]
        first, *others = requests
        if first.prepared_by is self and not others:
            positions, events, ahead = find_items(items, candidates), first.events, first.query
        else:
            positions, events = self._look_up(requests, candidates)
        if self._as_of is not None:
            items, positions, events = self._look_back(requests, candidates, positions, events)
        query, operands = ahead or self.query.encode(requests, events, items)
        if np.minimum.reduce(positions, initial=0) < 0 or any(
            one.columns or one.request.candidates is None for one in requests
        ):
            items, positions = self._find_candidates(requests, items, positions, query, retrieve)
        start = [0, *accumulate([len(one.candidates) for one in requests])]
        batch = EncodedBatch(
            self,
            requests,
            start,
            _repeat(start),
            query,
            operands,
            items,
            positions,
            self.query.attended_events(requests, events, items),
        )
        if self._value_columns or self._cross_columns or self._comparing:
            self._add_given(batch)
        return batch

    def _look_up(
        self, requests: Sequence[Ranking], candidates: Sequence[WantedItems] = ()
    ) -> tuple[Longs, dict[str, Longs]]:
        """Look up candidates, and by history the items of those whose items are looked up: positions."""
        names = self.query.looked_up
        if not names and candidates:
            return find_items(self.items, candidates), {}
        wanted = [candidates, *([one.histories[name].wanted for one in requests] for name in names)]
        every = [*chain.from_iterable(wanted)]
        if not every:
            return _NO_IDS, {}
        positions = find_items(self.items, every)
        ends = [*accumulate(sum(len(ids) for _, ids in group) for group in wanted)]
        events = {name: positions[a:b] for name, a, b in zip(names, ends, ends[1:], strict=False)}
        return positions[: ends[0]], events

    def _look_back(
        self,
        requests: Sequence[Ranking],
        candidates: Sequence[WantedItems],
        positions: Longs,
        events: Mapping[str, Longs],
    ) -> tuple[LayeredItems, Longs, dict[str, Longs]]:
        """The items as they were at the time of the request that names each, and the positions that were looked up."""
        assert self._as_of is not None
        times = np.array([one.time for one in requests])
        items, positions = self._as_of(
            self.items, positions, np.repeat(times, [len(ids) for _, ids in candidates]), True
        )
        found = {}
        for name, at in events.items():
            lengths = [len(one.histories[name].codes) for one in requests]
            items, found[name] = self._as_of(items, at, np.repeat(times, lengths), False)
        return items, positions, found

    def _find_candidates(
        self,
        requests: Sequence[Ranking],
        items: LayeredItems,
        positions: Longs,
        query: Rows,
        retrieve: Retrieve | None,
    ) -> tuple[LayeredItems, Longs]:
        """Retrieve candidates, encode those that are described, and leave unknown ones out.

        Args:
            requests: R, which are changed.
            items: those known.
            positions: of all candidates, −1 for those that are not known.
            query: the queries' rows: (R).
            retrieve: finds candidates.
        """
        settled, begin = [], 0
        for r, one in enumerate(requests):
            own = positions[begin : begin + len(one.candidates)]
            begin += len(one.candidates)
            given = set[str]().union(*one.columns)
            for column in sorted(given - self._allowed_columns):
                n = next(n for n, row in enumerate(one.columns) if column in row)
                refuse_unknown_column(f"candidates.{n}", column, self._allowed_columns)
            if one.request.candidates is None and retrieve is not None:
                own = retrieve(one.request, query, r)
                one.candidates = items.ids(own)
            if own.min(initial=0) < 0:
                if given:
                    items, own = self._add_described(one.candidates, one.columns, own, items)
                one.unknown = [*select_ids(one.candidates, np.flatnonzero(own < 0))]
                known = np.flatnonzero(own >= 0)
                one.candidates, own = select_ids(one.candidates, known), own[known]
                one.columns = [one.columns[n] for n in known] if one.columns else []
            if not len(own):
                one.found += self.filters.warn(one.request)
            count_clipped(self._limits, given, one.columns, one.clipped)
            settled.append(own)
        return items, join_arrays(settled)

    def encode_ahead(self, one: Ranking) -> None:
        """Encode the query of a request whose candidates are not known yet. Raises RequestError."""
        try:
            _, one.events = self._look_up([one])
            one.query = (
                None if self.query.counts_candidates else self.query.encode([one], one.events, self.items)
            )
        except DataError as error:
            raise RequestError(str(error)) from None
        one.prepared_by = self

    def cross(self, batch: EncodedBatch, alive: Longs) -> Rows:
        """The crosses of the candidates `alive`: those encoded with the requests, and the others, derived."""
        columns = {name: take_encoded(column, alive) for name, column in batch.crosses.items()}
        if self._late_crosses:
            columns |= self.derive(batch, alive, self._late_crosses)
        return self._cross.rows(columns, len(alive))

    def _add_given(self, batch: EncodedBatch) -> None:
        """Add what came with the candidates, and crosses that compare all, before stages drop some."""
        given, rows = [], list[dict[str, Any]]()
        for one in batch.requests:
            given.append(
                {
                    n: read_numbers(n, one.candidates, one.columns, n in self._named)
                    for n in self._value_columns
                }
            )
            own = one.columns or _NOTHING * len(one.candidates)
            absent = [c for c in self._cross_columns if not all(map(contains, own, repeat(c)))]
            one.missing += [f"cross.{c}" for c in absent]
            rows += own
        batch.given = {name: join_arrays([one[name] for one in given]) for name in self._value_columns}
        pieces = [slice(0, len(rows))]
        if len(batch.requests) > 1 and not self._is_even(rows):
            pieces = [slice(a, b) for a, b in pairwise(batch.start)]
        if not (self._cross_columns or self._comparing):
            return
        crosses, logged = zip(*(self._encode_crosses(rows[piece]) for piece in pieces), strict=True)
        batch.crosses = {name: _join([one[name] for one in crosses]) for name in crosses[0]}
        if self._comparing:
            first, *others = logged
            batch.crosses |= self.derive(batch, batch.everyone, self._comparing, first.concat(*others))

    def _is_even(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the values of each logged column are of one type, so that they can be read as one column.

        Otherwise each request's are read by themselves, since the type of a column is that of its values.
        """
        for column in self._cross_columns:
            kinds = {type(row.get(column)) for row in rows} - {NoneType}
            if len(kinds) > 1 or list in kinds:
                return False
        return True

    def derive(
        self, batch: EncodedBatch, alive: Longs, names: frozenset[str], logged: Operands | None = None
    ) -> dict[str, Column]:
        """Some derived crosses of the candidates `alive`, encoded."""
        encoder, taken = self._plan(names)
        positions, request_of = batch.positions.take(alive), batch.request_of.take(alive)
        items = batch.items.operands(positions, taken)
        if self._item_row.vectors:
            items = items.with_vectors(self._item_row, batch.items.rows(positions))
        sides = OperandRows.pairs(
            self.schema.operand_placements, batch.operands, items, request_of, None, logged
        )
        return encoder.derive(sides, self.priors, batch.times.take(request_of))

    def encode_items(self, ids: list[Any], columns: list[dict[str, Any]]) -> ItemLayer:
        """Encode items of the given columns, each once, as a catalogue layer. Raises RequestError."""
        for n, row in enumerate(columns):
            for column in row.keys() - self.item_columns:
                refuse_unknown_column(repr(ids[n]), column, self.item_columns)
            for column in self._manifest.item_columns:
                if column in self._named:
                    read_number(column, ids[n], row)
        find_items(self.items, [("items", ids)])  # ids of another type could never be found
        key, names = self._manifest.item, sorted(self.item_columns)
        rows: Sequence[Mapping[str, Any]] = columns
        if nulls := self._manifest.data.nulls:
            rows = [read_nulls(row, nulls) for row in columns]
        try:
            series = [to_series(name, [row.get(name) for row in rows], "items") for name in names]
            frame = pl.DataFrame([to_identifiers(to_series("id", ids, "items"), "id").alias(key), *series])
            records = ItemRecords.encode(frame, self.encoders, self.priors, key, self._manifest.item_columns)
            return ItemLayer(records, self._parts(records.rows))
        except DataError as error:
            raise RequestError(str(error)) from None

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
        new = [
            n for n in np.flatnonzero(positions < 0).tolist() if not self.item_columns.isdisjoint(columns[n])
        ]
        if not new:
            return items, positions
        rows = [{c: v for c, v in columns[n].items() if c in self.item_columns} for n in new]
        described = LayeredItems((self.encode_items([ids[n] for n in new], rows),))
        positions = positions.copy()
        positions[new] = find_items(described, [("candidates", [ids[n] for n in new])])
        positions[new] += items.bounds[-1]
        return items.with_layer(described.layers[0]), positions

    def _encode_crosses(self, rows: Sequence[Mapping[str, Any]]) -> EncodedColumns:
        """The logged crosses of some candidates."""
        given = self._cross_columns if any(rows) else ()
        if nulls := self._manifest.data.nulls:
            rows = [read_nulls(row, nulls) for row in rows]
        series = {c: to_series(c, [row.get(c) for row in rows], "candidates") for c in given}
        try:
            return self._cross.encode(series, len(rows))
        except DataError as error:
            raise RequestError(f"candidates: {error}") from None


def _plan_crosses(encoders: Encoders, names: frozenset[str]) -> tuple[RowEncoder, frozenset[str]]:
    """The encoder of some derived crosses, and the operands that they take of items."""
    encoder = RowEncoder(encoders, "cross", names)
    return encoder, encoder.taken_of("item")


_NOTHING: list[dict[str, Any]] = [{}]


def _repeat(start: list[int]) -> Longs:
    """The request of each candidate, from where those of each request begin: (n,)."""
    if len(start) == 2:
        return np.zeros(start[1], dtype=np.int64)
    return np.repeat(np.arange(len(start) - 1), np.diff(start))


def _join(columns: Sequence[Any]) -> Encoded:
    """Concatenate an encoded feature of several requests."""
    first, *others = columns
    joined: Encoded = join_arrays(columns) if isinstance(first, np.ndarray) else first.concat(*others)
    return joined


def find_items(items: LayeredItems, wanted: Sequence[WantedItems]) -> Longs:
    """Look the items of several lists up in the catalogue, all at once: positions, those of one list after the other.

    An unknown item has −1. Raises RequestError if the ids of a list are of another type than the catalogue's.
    """
    if items.text:
        lists = [ids for _, ids in wanted if isinstance(ids, list)]
        texts = [*chain.from_iterable(lists)]
        if len(lists) == len(wanted) and set(map(type, texts)) == {str}:
            positions = items.find_texts(texts)
            unknown = [texts[n] for n in np.flatnonzero(positions < 0)]
            with suppress(RequestError):
                if unknown:
                    to_series("id", unknown, "")  # raises for what is no text of UTF-8
                return positions
    else:
        numbers = [ids for _, ids in wanted if isinstance(ids, np.ndarray)]
        if all(isinstance(ids, np.ndarray) or not len(ids) for _, ids in wanted):
            return items.find_numbers(join_arrays(numbers or [_NO_IDS]))
    return join_arrays([_find_alone(items, *one) for one in wanted])


_NO_IDS = np.empty(0, dtype=np.int64)


def _find_alone(items: LayeredItems, where: str, ids: Sequence[Any] | Longs) -> Longs:
    if not len(ids):
        return _NO_IDS
    try:
        values = ids.tolist() if isinstance(ids, np.ndarray) else [*ids]
        return items.find(to_identifiers(to_series("id", values, where), f"{where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None


LARGEST = float(np.finfo(np.float32).max)
"""Values are 32-bit floats, in training as here."""


def read_numbers(name: str, ids: Sequence[Any], columns: list[dict[str, Any]], needed: bool) -> Floats:
    """Read one of the data's `columns` of n candidates, NaN if no stage needs it: (n,).

    Raises RequestError if a candidate lacks what a stage needs, or has something else there.
    """
    if needed:
        rows: list[dict[str, Any]] = columns or [{}] * len(ids)
        values: list[Any] = [row.get(name) for row in rows]
        if not all(map(_is_number, values)):
            for id_, row in zip(ids, rows, strict=True):
                read_number(name, id_, row)  # one of them raises
        return flush_subnormals(np.array(values, dtype=np.float64).astype(np.float32))
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
