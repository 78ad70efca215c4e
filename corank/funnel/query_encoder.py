"""The query sides of requests that were read → encoded rows and operands, by the code that packing used.

Letters: R requests · E events of a history of all of them.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from corank.bundle.item_layers import LayeredItems
from corank.bundle.manifest import BundleManifest
from corank.core.ragged import Ragged, Rows, concat_vectors
from corank.core.subnormal import flush_subnormals
from corank.core.types import Floats, Ints, Longs
from corank.data.packed.history import add_histories, unknown_item_rows, with_attributes
from corank.features.encoders import Encoders
from corank.features.encoding import Column
from corank.features.history import EventAge
from corank.features.history_events import HistoryNeeds
from corank.features.history_operands import (
    average_history_vectors,
    gather_event_ages,
    gather_history_operands,
)
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PriorSnapshots
from corank.features.row_encoder import RowEncoder
from corank.features.schema import Schema
from corank.funnel.ranking import Ranking, RequestHistory

T = TypeVar("T", bound=np.generic)
_NO_POSITIONS = np.empty(0, dtype=np.int64)
_NO_OPERANDS = Operands(0, {}, {}, {})

Histories = Mapping[str, Sequence[RequestHistory]]
"""By history that of each of R requests."""
HistoryItems = tuple[dict[str, Ragged], Rows, Operands]
"""The items of all histories of R requests, gathered once: by history R lists of their rows, −1 for an unknown item;
their records, and the operands of these."""


class AttendedEvents(NamedTuple):
    """The events of a history of R requests that a stage attends to."""

    rows: Rows
    """The records of their items, and the attributes of the events: (E)."""
    lengths: Sequence[int]
    """How many each request has: (R,)."""
    ages: Floats | None
    """Of the events, as `log_ages` says them, if a stage reads them: (E,)."""


class QueryEncoder:
    """Encodes the user, the context and the histories of requests to one bundle."""

    def __init__(
        self, manifest: BundleManifest, encoders: Encoders, priors: PriorSnapshots, retrieved: int
    ) -> None:
        """
        Args:
            manifest: of the bundle.
            encoders: of the bundle.
            priors: of the bundle.
            retrieved: how many candidates are retrieved for a request that brings none, and names no number.
        """
        self.schema: Schema = encoders.schema
        self._priors, self.retrieved, self._rows = priors, retrieved, RowEncoder(encoders, "query")
        self.counts_candidates = any(feature.counts_candidates for feature, _ in self._rows.derived.values())
        """Whether a feature of the query needs the number of candidates."""
        self.attended, self._needs = manifest.attended, HistoryNeeds.of(self.schema)
        attributes = {name: history for name, (history, _) in self.schema.attributes().items()}
        self._owners = {n: n for n in self.schema.histories()} | attributes | self.schema.parallels()
        """By list of the query that is of a history, this one."""
        items = (self.schema.of_items(name) or name for name in self._needs.for_attributes)
        self._item_operands = frozenset(items)
        self.looked_up = tuple(dict.fromkeys((*self._needs.records, *self.attended)))
        """Histories whose items are looked up."""
        self._plan()

    def _plan(self) -> None:
        """Say where the value of each feature of a column goes, of rows and of operands."""
        placed, wanted = self._rows.placed, self._rows.operands
        number_of = {name: n for n, name in enumerate(self._rows.columns)}
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

    def encode(
        self, requests: Sequence[Ranking], positions: Mapping[str, Longs], items: LayeredItems
    ) -> tuple[Rows, Operands]:
        """Encode the queries of R requests: their rows and their operands.

        Args:
            requests: whose queries were read.
            positions: of the items of histories that are looked up, by history, one request after the other.
            items: the catalogue.

        Raises DataError, RequestError.
        """
        histories = {name: [one.histories[name] for one in requests] for name in requests[0].histories}
        gathered = None
        if self._needs.records or self._needs.weighted:
            gathered = self.gather(items, histories, positions)
        operands = self._join_operands(requests, histories, gathered)
        derived: Mapping[str, Column] = {}
        if self._rows.derived:
            sides = OperandRows.alone(self.schema.operand_placements, "query", operands)
            times = np.array([one.time for one in requests])
            sizes = np.array([one.request.count_candidates(self.retrieved) for one in requests])
            derived = self._rows.derive(sides, self._priors, times, sizes)
        rows = self._assemble(requests, derived, histories)
        if gathered is not None:
            rows = add_histories(self.schema, rows, *gathered[:2])
        return rows, operands

    def gather(
        self, items: LayeredItems, histories: Histories, positions: Mapping[str, Longs]
    ) -> HistoryItems:
        """Gather the records of the items of R requests' histories, which are at some positions: (E,) by history."""
        looked_up = [positions[name] for name in self._needs.records if name in histories]
        at = np.concatenate([_NO_POSITIONS, *looked_up])
        row, known = np.arange(len(at)), at >= 0
        if not known.all():
            row, at = np.where(known, np.cumsum(known) - 1, -1), at[known]
        end = np.cumsum([*map(len, looked_up)])
        rows = dict(zip(self._needs.records, np.split(row, end[:-1]), strict=False)) if looked_up else {}
        listed = {}
        for name, of in histories.items():
            codes = [one.codes for one in of]
            weights = [one.weight for one in of if one.weight is not None]
            weight = join_arrays(weights) if weights else None
            listed[name] = _lists(
                codes, rows[name] if name in rows else np.full(sum(map(len, codes)), -1), weight
            )
        return listed, items.rows(at), items.operands(at, self._item_operands)

    def _assemble(
        self, requests: Sequence[Ranking], derived: Mapping[str, Column], histories: Histories
    ) -> Rows:
        """Put values, derived features and the codes of histories together as R rows.

        An attribute of a history has the codes of its items, which its own replace afterwards.
        """
        placed, values = self._rows.placed, [one.values for one in requests]
        ids = np.empty((len(requests), len(placed.ids)), dtype=np.int32)
        numbers = np.empty((len(requests), placed.width), dtype=np.float32)
        for r, of in enumerate(values):
            for at, n in self._ids:
                ids[r, at] = of[n].row
            for columns, n in self._numbers:
                numbers[r, columns] = of[n].row
        for name, column in derived.items():
            if name in placed.numbers_at:
                numbers[:, placed.numbers_at[name]] = column.reshape(len(requests), -1)
            else:
                ids[:, placed.ids.index(name)] = column
        lists = []
        for name, at_value in zip(placed.lists, self._lists, strict=True):
            if at_value is None:
                events = histories[self._owners[name]]
                lists.append(_lists([one.attributes.get(name, one.codes) for one in events]))
            else:
                lists.append(join_lists([of[at_value].row for of in values]))
        vectors = tuple(concat_vectors([of[n].row for of in values]) for _, n in self._vectors)
        return Rows(ids, flush_subnormals(numbers), tuple(lists), vectors)

    def _join_operands(
        self, requests: Sequence[Ranking], histories: Histories, gathered: HistoryItems | None
    ) -> Operands:
        """The operands of R queries: those of values, and those of histories."""
        values, needs, (keys, lists, numbers) = [one.values for one in requests], self._needs, self._operands
        listed = {name: join_lists([of[n].hashes for of in values]) for name, n in lists}
        vectors = {name: concat_vectors([of[n].row for of in values]) for name, n in self._vectors}
        if gathered is not None:
            schema, (items, rows, operands), named = self.schema, gathered, needs.for_attributes
            listed |= gather_history_operands(schema, items, operands, named)
            vectors |= average_history_vectors(schema, items, rows, named)
        for name in needs.compared:  # an item that the bundle lacks is still an item of the history
            listed[name] = _lists([one.keys for one in histories[name]])
        for name, history in needs.beside.items():
            listed[name] = _lists([one.attribute_keys[name] for one in histories[history]])
        return Operands(
            len(requests),
            {name: np.array([of[n].key for of in values], dtype=np.uint64) for name, n in keys},
            listed,
            {name: np.array([of[n].number for of in values], dtype=np.float64) for name, n in numbers},
            vectors,
            self._ages(gathered, histories) if needs.aged else {},
        )

    def _ages(
        self, gathered: HistoryItems | None, histories: Histories
    ) -> dict[tuple[str, EventAge], Ragged]:
        """How old the events of operands are."""
        aged = set(self._needs.aged.values())
        events = {name: np.array([len(one.codes) for one in histories[name]]) for name in aged}
        ages = {name: join_arrays([one.age for one in histories[name]]) for name in self._needs.timed}
        items, _, operands = gathered or ({}, None, _NO_OPERANDS)
        return gather_event_ages(self._needs.aged, events, ages, items, operands)

    def attended_events(
        self, requests: Sequence[Ranking], positions: Mapping[str, Longs], items: LayeredItems
    ) -> dict[str, AttendedEvents]:
        """By attended history the events of R requests, whose items are at some positions: (E,) by history."""
        attended = {}
        for name in self.attended:
            of, beside = [one.histories[name] for one in requests], self.schema.parallels_of(name)
            codes = [one.codes for one in of]
            rows = self._item_rows(items, name, join_arrays(codes), positions[name])
            if beside:
                columns = [join_arrays([one.attributes[n] for one in of]) for n in beside]
                rows = with_attributes(rows, np.stack(columns, axis=1))
            ages = [one.ages for one in of if one.ages is not None]
            attended[name] = AttendedEvents(rows, [*map(len, codes)], join_arrays(ages) if ages else None)
        return attended

    def _item_rows(self, items: LayeredItems, name: str, codes: Ints, positions: Longs) -> Rows:
        """The records of a history's items; an unknown item has the code of its id, and nothing else."""
        unknown = np.flatnonzero(positions < 0)
        if not len(unknown):
            return items.rows(positions)
        known = items.rows(positions[positions >= 0])
        placed, id_feature = self.schema.record_features, self.schema.table_of(name)
        none = unknown_item_rows(self.schema, placed, id_feature, codes[unknown])
        order = np.argsort(np.concatenate((np.flatnonzero(positions >= 0), unknown)))
        return known.compact().concat(none).take(order)


def _lists(
    of: Sequence[NDArray[Any]], values: NDArray[Any] | None = None, weight: Floats | None = None
) -> Ragged:
    """Make R lists, of the lengths of some arrays, and of their values unless others are given."""
    joined = join_arrays(of) if values is None else values
    if len(of) == 1:
        return Ragged.single(joined, weight)
    return Ragged.from_lengths(np.array([*map(len, of)]), joined, weight)


def join_arrays(arrays: Sequence[NDArray[T]]) -> NDArray[T]:
    """Concatenate one or more arrays, without a copy of a single one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def join_lists(lists: Sequence[Ragged]) -> Ragged:
    """Concatenate the lists of requests, without a copy of a single one."""
    return lists[0] if len(lists) == 1 else lists[0].concat(*lists[1:])
