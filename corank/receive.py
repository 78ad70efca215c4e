"""A request → encoded rows, by the code that packing used.

Letters: n candidates · N items of the bundle.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.asked import Request, candidates, history, series, unknown_column
from corank.bundle import Manifest
from corank.cross import Sides
from corank.derive import derived, encoded
from corank.encode import Encoded, Encoders, assemble
from corank.errors import DataError, RequestError
from corank.history import recency
from corank.operands import Operands, Wanted, of_histories
from corank.past import with_past
from corank.prior import Snapshots
from corank.records import Records
from corank.rows import Floats, Ragged, Rows
from corank.schema import MISSING, Placement, Schema
from corank.vocabulary import Hash, Vocabulary, hashes, identifiers

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Received:
    """A request as the stages take it; the candidates that are known or described, in the order given."""

    ids: list[Any]
    query: Rows  # (1)
    items: Rows  # (n)
    record: Index
    """(n,) Place among the bundle's items, -1 where the item was described in the request."""
    histories: dict[str, Rows]
    """By history that is attended to, its items, the newest last."""
    columns: dict[str, Floats]
    """The data's `columns`: (n,)."""
    unknown: list[Any]
    missing: list[str]
    logged: dict[str, Encoded]
    """The crosses that came with the candidates."""
    operands: tuple[Operands, Operands]
    """Of the query (1), and of the items (n)."""
    time: int


@dataclass(frozen=True)
class Past:
    """A history of one request: L events, the newest last."""

    codes: NDArray[np.int32]
    record: Index
    keys: NDArray[np.uint64]
    weight: Floats | None


class Receiver:
    """Encodes requests for one bundle."""

    def __init__(
        self,
        manifest: Manifest,
        encoders: Encoders,
        records: Records,
        priors: Snapshots,
        attended: Collection[str],
        named: Collection[str],
    ) -> None:
        """`attended`: the histories that some stage attends to; `named`: the columns that some stage's value names."""
        self._manifest, self.encoders, self.records, self.priors = manifest, encoders, records, priors
        self.schema: Schema = encoders.schema
        self._attended, self._named = attended, named
        self._asked = [c for c in manifest.data.columns if c not in manifest.item_columns]
        self._item_columns = self._columns("item") - {manifest.item} | set(manifest.item_columns)
        self._pair_columns = self._columns("cross") | set(self._asked)

    def receive(self, request: Request) -> Received:
        """Raises RequestError, which names the field."""
        given, described = candidates(request)
        record, unknown = self._known(given, described)
        known = np.flatnonzero(~unknown)
        ids, columns, record = [given[n] for n in known], [described[n] for n in known], record[known]
        missing: list[str] = []
        try:
            frame, time = self._query_frame(request, missing), request.moment
            past = {name: self.history(name, request, time) for name in self.schema.histories()}
            query, operands = self._query(frame, past, time)
            items, item_operands, of_items = self._items(ids, columns, record)
            logged = self.encoders.columns("cross", self._frame(self._columns("cross"), columns, missing))
            return Received(
                ids=ids,
                query=query,
                items=items,
                record=record,
                histories={name: self._events(name, past[name]) for name in self._attended},
                columns=of_items | self._values(ids, columns),
                unknown=[given[n] for n in np.flatnonzero(unknown)],
                missing=missing,
                logged=logged,
                operands=(operands, item_operands),
                time=time,
            )
        except DataError as error:
            raise RequestError(str(error)) from None

    def cross(self, received: Received, alive: Index) -> Rows:
        """The crosses of some candidates: those logged, and those derived."""
        columns = {
            name: column.take(alive) if isinstance(column, Ragged) else column[alive]
            for name, column in received.logged.items()
        }
        if self.schema.derived("cross"):
            request_of = np.zeros(len(alive), dtype=np.int64)
            sides = Sides.pairs(self.schema, *received.operands, request_of, alive)
            times = np.full(len(alive), received.time)
            columns |= encoded(self.encoders, derived(self.schema, "cross", sides, self.priors, times))
        return assemble(self.schema.placed("cross"), columns, len(alive))

    def _known(self, given: list[Any], described: list[dict[str, Any]]) -> tuple[Index, NDArray[np.bool_]]:
        """Each candidate's place among the records, and whether it is neither there nor described."""
        known, allowed = self._item_columns, self._item_columns | self._pair_columns
        for n, columns in enumerate(described):
            for column in columns:
                if column not in allowed:
                    raise RequestError(f"candidates.{n}: {unknown_column(column, allowed)}")
        record = self._find(given, "candidates")
        bare = np.array([known.isdisjoint(columns) for columns in described], dtype=bool)
        return record, (record < 0) & bare

    def _find(self, ids: list[Any], where: str) -> Index:
        """The place of each item among the records, -1 where it is not. Raises RequestError."""
        try:
            return self.records.ids.find(identifiers(series("id", ids, where), f"{where}.id"))
        except (DataError, TypeError):
            keys = self.records.ids
            sample = keys.values[0] if len(keys) else None
            raise RequestError(
                f"{where}: ids are of another type than the bundle's, such as {sample!r}"
            ) from None

    def _items(
        self, ids: list[Any], columns: list[dict[str, Any]], record: Index
    ) -> tuple[Rows, Operands, dict[str, Floats]]:
        """Rows, operands and the data's `columns` of the candidates' items."""
        described = np.flatnonzero(record < 0)
        held = np.maximum(record, 0)
        if len(described) == len(record):
            return self._described(ids, columns)
        rows, operands = self.records.rows.take(held), self.records.operands.take(held)
        values = {name: column[held] for name, column in self.records.columns.items()}
        if len(described):
            new, new_operands, new_values = self._described(
                [ids[n] for n in described], [columns[n] for n in described]
            )
            rows, operands = rows.replaced(described, new), operands.replaced(described, new_operands)
            for name, column in values.items():
                column[described] = new_values[name]
        return rows, operands, values

    def _described(
        self, ids: list[Any], columns: list[dict[str, Any]]
    ) -> tuple[Rows, Operands, dict[str, Floats]]:
        given = [{**row, self._manifest.item: value} for row, value in zip(columns, ids, strict=True)]
        frame = self._frame(self._columns("item") | {self._manifest.item}, given, [])
        operands = self._operands("item", frame)
        values = self._placed("item", frame, operands, 0)
        numbers = {name: self._numbers(name, ids, columns) for name in self._manifest.item_columns}
        return assemble(self.schema.placed("item"), values, len(frame)), operands, numbers

    def _values(self, ids: list[Any], columns: list[dict[str, Any]]) -> dict[str, Floats]:
        return {name: self._numbers(name, ids, columns) for name in self._asked}

    def _numbers(self, name: str, ids: list[Any], columns: list[dict[str, Any]]) -> Floats:
        """One of the data's `columns`. Raises RequestError where a candidate has no number that it is ordered by."""
        found = np.full(len(ids), np.nan, dtype=np.float32)
        if name not in self._named:
            return found
        for n, row in enumerate(columns):
            value: Any = row.get(name)
            if type(value) not in (int, float) or not np.isfinite(value):
                raise RequestError(
                    f"candidates: {ids[n]!r} has no number '{name}', by which candidates are ordered; "
                    f"received {value!r}"
                )
            found[n] = value
        return found

    def _query_frame(self, request: Request, missing: list[str]) -> pl.DataFrame:
        manifest, schema = self._manifest, self.schema
        user = {(manifest.user if key == "id" else key): value for key, value in request.user.items()}
        values: dict[str, Any] = {}
        for side, given in (("user", user), ("context", request.context)):
            wanted = self._sides[side]
            histories = set(schema.histories()) if side == "user" else set()
            for column in given:
                if column not in wanted | histories and column != manifest.user:
                    raise RequestError(f"{side}: {unknown_column(column, wanted | histories)}")
            absent = (wanted | histories) - given.keys()
            missing += sorted(f"{side}.{'id' if c == manifest.user else c}" for c in absent)
            values |= {column: given[column] for column in wanted & given.keys()}
        return pl.DataFrame(
            [series(c, [v], "request") for c, v in values.items()] or [pl.Series("_", [None])]
        )

    def history(self, name: str, request: Request, time: int) -> Past:
        """A history as the request tells it, cut to its length. Raises RequestError."""
        settings = self.schema.histories()[name]
        ids, times = history(name, request.user.get(name), settings.half_life is not None)
        ids, times = ids[-settings.last :], times[-settings.last :]
        encoder = self.encoders.fitted[self.schema.table_of(name)]
        assert isinstance(encoder, Vocabulary | Hash)
        values = series(name, ids, f"user.{name}") if ids else pl.Series(name, [], dtype=pl.Null)
        age = time - np.array(times, dtype=np.int64)
        return Past(
            encoder.codes(values, name),
            self._find(ids, f"user.{name}") if ids else np.empty(0, dtype=np.int64),
            hashes(values, name),
            recency(np.maximum(age, 0), settings.half_life) if settings.half_life else None,
        )

    def _query(self, frame: pl.DataFrame, past: dict[str, Past], time: int) -> tuple[Rows, Operands]:
        schema = self.schema
        items = {
            name: Ragged.packed(np.array([len(h.record)]), h.record, h.weight) for name, h in past.items()
        }
        lists = of_histories(schema, items, self.records.operands, schema.past_operands())
        # an item that the bundle lacks is still the item that the user has seen
        seen = {
            name: Ragged.packed(np.array([len(h.keys)]), h.keys) for name, h in past.items() if name in lists
        }
        operands = self._operands("query", frame).with_lists(lists | seen)
        columns = self._placed("query", frame, operands, time)
        for name in schema.placed("query").lists:
            if name not in columns:
                codes = past[schema.attributes().get(name, (name,))[0]].codes
                columns[name] = Ragged.packed(np.array([len(codes)]), codes)
        rows = assemble(schema.placed("query"), columns, 1)
        return with_past(schema, rows, items, self.records.rows), operands

    def _events(self, name: str, past: Past) -> Rows:
        """The records of a history's items; one that has none is its id's code, and all else missing."""
        rows = self.records.rows
        placed, held = self.schema.placed("item"), np.maximum(past.record, 0)
        unknown = past.record < 0
        if unknown.all():
            lists = tuple(
                Ragged.packed(np.zeros(len(held), np.int32), np.empty(0, np.int32)) for _ in placed.lists
            )
            found = Rows(
                np.full((len(held), len(placed.ids)), MISSING, dtype=np.int32),
                np.zeros((len(held), len(placed.numbers)), dtype=np.float32),
                lists,
            )
        else:
            found = rows.take(held)
            found.ids[unknown] = MISSING
            for values in found.lists:
                values.length[unknown] = 0
        owner = self.schema.table_of(name)
        found.ids[unknown, placed.ids.index(owner)] = past.codes[unknown]
        return found

    def _placed(
        self, placement: Placement, frame: pl.DataFrame, operands: Operands, time: int
    ) -> dict[str, Encoded]:
        """The features of a placement, but for histories."""
        columns = self.encoders.columns(placement, frame)
        if self.schema.derived(placement):
            sides = Sides.alone(self.schema, placement, operands)
            times = np.full(len(frame), time)
            columns |= encoded(self.encoders, derived(self.schema, placement, sides, self.priors, times))
        return columns

    def _operands(self, placement: Placement, frame: pl.DataFrame) -> Operands:
        absent = pl.Series([None] * len(frame), dtype=pl.Null)

        def column(name: str) -> pl.Series:
            of = self.schema.column(name)
            return frame[of] if of in frame.columns else absent

        return Operands.of(self.encoders, self._wanted[placement], column, len(frame))

    @cached_property
    def _wanted(self) -> dict[Placement, Wanted]:
        return {"query": Wanted.of(self.schema, "query"), "item": Wanted.of(self.schema, "item")}

    @cached_property
    def _sides(self) -> dict[str, set[str]]:
        schema = self.schema
        return {
            side: {schema.column(n) for n, f in schema.columns("query").items() if f.side == side}
            for side in ("user", "context")
        }

    def _columns(self, placement: Placement) -> set[str]:
        return {self.schema.column(name) for name in self.schema.columns(placement)}

    def _frame(self, columns: set[str], rows: list[dict[str, Any]], missing: list[str]) -> pl.DataFrame:
        names = sorted(columns)
        missing += [f"cross.{c}" for c in names if any(c not in row for row in rows)]
        given = [series(c, [row.get(c) for row in rows], "candidates") for c in names]
        return pl.DataFrame(given or [pl.Series("_", [None] * len(rows))])
