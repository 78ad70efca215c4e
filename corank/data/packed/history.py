"""Histories of packed requests: items as they were at the request, their attributes, and the weight of each event.

A history is kept once a user and cut for each request. Items are looked up at the time of the request, not of the
event: these are the rows that a service reads.

Letters: R requests.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from corank.core.ragged import Ragged, Rows, Vectors, take_known
from corank.core.types import Index, Ints, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import LoggedRequests
from corank.features.encoding import MISSING, RowFeatures
from corank.features.history_events import HistoryNeeds, log_ages, recency_weights
from corank.features.history_operands import (
    average_history_vectors,
    gather_event_ages,
    gather_history_operands,
)
from corank.features.operands import Operands, flatten_lists, select_lists
from corank.features.schema import Schema

UNKNOWN_ITEM = -1
"""The row of an item that is not in the tables."""


def read_history_items(
    packed: PackedDataset, rows: LoggedRequests, requests: Index, names: Iterable[str]
) -> dict[str, Ragged]:
    """Read, by history, the item rows of its events at each request, the newest last: R lists.

    An event of an item that is not in the tables has the row UNKNOWN_ITEM.
    """
    histories = {}
    for name in names:
        history = packed.schema.histories()[name]
        events, view = packed.events[history.events], _take_list(packed, rows, requests, name)
        position, time = view.positions(), np.repeat(rows.time[requests], view.length)
        ordinal = events.ordinals[position]
        item = packed.item_versions.find_at(np.maximum(ordinal, 0), time)
        item[ordinal < 0] = UNKNOWN_ITEM
        weight = None
        if history.half_life:
            weight = recency_weights(time - events.times[position], history.half_life)
        histories[name] = Ragged.from_lengths(view.length, item, weight)
    return histories


def _take_list(packed: PackedDataset, rows: LoggedRequests, requests: Index, name: str) -> Ragged:
    """Take the list feature `name` of R requests."""
    return rows.query.lists[packed.schema.row_features("query").lists.index(name)].take(requests)


def read_query_rows(
    packed: PackedDataset, rows: LoggedRequests, requests: Index, items: Mapping[str, Ragged]
) -> Rows:
    """Read the query's rows of R requests, with what depends on histories.

    Args:
        items: the item rows of the histories `HistoryNeeds.for_rows` at least.
    """
    return add_histories(packed.schema, rows.query.take(requests), items, packed.items)


def request_operands(packed: PackedDataset, rows: LoggedRequests, requests: Index) -> Operands:
    """Read the operands of R requests, and gather those of their histories."""
    needs, histories = HistoryNeeds.of(packed.schema), packed.schema.histories()
    items = read_history_items(packed, rows, requests, needs.for_operands)
    request_lists = gather_history_operands(packed.schema, items, packed.item_operands, needs.operands)
    for name in needs.compared:
        if (keys := packed.events[histories[name].events].keys) is not None:
            view = _take_list(packed, rows, requests, name)
            request_lists[name] = Ragged(view.start, view.length, keys)
    for name, history in needs.beside.items():
        view = _take_list(packed, rows, requests, history)
        keys = packed.events[histories[history].events].attribute_keys[name]
        request_lists[name] = Ragged(view.start, view.length, keys)
    means = average_history_vectors(packed.schema, items, packed.items, needs.operands)
    aged = {name: _take_list(packed, rows, requests, name) for name in set(needs.aged.values())}
    past = {name: _age_events(packed, rows, requests, name) for name in needs.timed}
    ages = gather_event_ages(
        needs.aged, {name: view.length for name, view in aged.items()}, past, items, packed.item_operands
    )
    operands = (
        rows.operands.take(requests).with_lists(request_lists).with_named_vectors(means).with_ages(ages)
    )
    return operands.with_vectors(packed.schema.row_features("query"), rows.query.take(requests))


def add_histories(schema: Schema, rows: Rows, items: Mapping[str, Ragged], records: Rows) -> Rows:
    """Fill in the attributes of the histories' items, and the weight of each event where they differ.

    Args:
        items: by history the rows of its items among `records`, UNKNOWN_ITEM for one without.
    """
    attributes, parallels = schema.attributes(), schema.parallels()
    lists = list(rows.lists)
    for n, name in enumerate(schema.row_features("query").lists):
        if name in attributes:
            history, feature = attributes[name]
            lists[n] = attribute_codes(schema, items[history], feature, records)
        elif (events := items.get(parallels.get(name, name))) is not None and events.weight is not None:
            lists[n] = Ragged.from_lengths(lists[n].length, lists[n].flat(), events.weight)
    return replace(rows, lists=tuple(lists))


def unknown_item_rows(schema: Schema, placed: RowFeatures, feature: str, codes: Ints) -> Rows:
    """Make the rows of items that are not in the tables: the code of the id, if it is an input, and nothing else.

    Args:
        placed: the features of the rows: of item rows, or of records.
        feature: that of the id.
        codes: its codes.
    """
    count = len(codes)
    ids = np.full((count, len(placed.ids)), MISSING, dtype=np.int32)
    if feature in placed.ids:
        ids[:, placed.ids.index(feature)] = codes
    none = Ragged.from_lengths(np.zeros(count, np.int32), np.empty(0, np.int32))
    numbers, features = np.zeros((count, placed.width), dtype=np.float32), schema.features
    vectors = tuple(Vectors.none(count, features[name].vector.dimension) for name in placed.vectors)
    return Rows(ids, numbers, (none,) * len(placed.lists), vectors)


def read_event_rows(
    packed: PackedDataset,
    rows: LoggedRequests,
    requests: Index,
    history: str,
    items: Ragged,
    features: Collection[str] = (),
) -> tuple[Rows, Ragged]:
    """Read the distinct items of a history's events, H rows, and the position of each event's among them: R lists.

    If some of `features` are attributes of the events, items are distinct by these, too, and their rows have a column
    of ids more for each attribute of the history, 0 for those that are not wanted.

    Args:
        items: what `read_history_items` read of the history.
        features: what is read of the events.
    """
    row, unknown = items.flat(), items.flat() == UNKNOWN_ITEM
    if unknown.any():  # the codes of their ids distinguish such items
        row = np.where(unknown, UNKNOWN_ITEM - _take_list(packed, rows, requests, history).flat(), row)
    distinct, position = np.unique(row, return_inverse=True)
    known = packed.items.take(distinct[distinct >= 0])
    if unknown.any():
        of = packed.schema.histories()[history].of
        codes = (UNKNOWN_ITEM - distinct[distinct < 0]).astype(np.int32)
        bare = unknown_item_rows(packed.schema, packed.schema.row_features("item"), of, codes)
        known = bare.concat(known.compact())
    beside = packed.schema.parallels_of(history)
    if not any(name in features for name in beside):
        return known, Ragged.from_lengths(items.length, position.astype(np.int32))
    codes = np.zeros((len(position), len(beside)), dtype=np.int32)
    for n, name in enumerate(beside):
        if name in features:
            codes[:, n] = _take_list(packed, rows, requests, name).flat()
    first, pair = _find_distinct(position, codes)
    distinct_rows = with_attributes(known.take(position[first]), codes[first])
    return distinct_rows, Ragged.from_lengths(items.length, pair.astype(np.int32))


def read_event_ages(packed: PackedDataset, rows: LoggedRequests, requests: Index, history: str) -> Ragged:
    """Read how old a history's events are at each request, as `log_ages` gives it: R lists."""
    view = _take_list(packed, rows, requests, history)
    return Ragged.from_lengths(view.length, log_ages(_age_events(packed, rows, requests, history)))


def _age_events(packed: PackedDataset, rows: LoggedRequests, requests: Index, history: str) -> Longs:
    """Ms from each of a history's events to its request: (E,)."""
    events = packed.events[packed.schema.histories()[history].events]
    view = _take_list(packed, rows, requests, history)
    ages: Longs = np.repeat(rows.time[requests], view.length) - events.times[view.positions()]
    return ages


def _find_distinct(row: Index, codes: Ints) -> tuple[Index, Index]:
    """Find the distinct pairs of a row and codes: where each is first, (H,), and which each is, (E,)."""
    pair, first = row.astype(np.int64), np.arange(len(row))
    for column in codes.T:
        # made dense each time, so that numbers of pairs stay small
        _, first, pair = np.unique(pair << 32 | column, return_index=True, return_inverse=True)
    return first, pair


def with_attributes(items: Rows, codes: Ints) -> Rows:
    """Append what events have of the attributes of their history, (N, A), to the rows of their items, N."""
    return replace(items, ids=np.concatenate((items.ids, codes), axis=1))


def attribute_codes(schema: Schema, items: Ragged, feature: str, records: Rows) -> Ragged:
    """Look up the codes that the items of R lists have of an item feature: R lists."""
    row, placed, weight = items.flat(), schema.row_features("item"), items.flat_weight()
    if schema.features[feature].storage == "id":
        codes = take_known(records.ids[:, placed.ids.index(feature)], row, MISSING)
        return Ragged.from_lengths(items.length, codes, weight)
    inner = select_lists(records.lists[placed.lists.index(feature)], row)
    return flatten_lists(Ragged.from_lengths(items.length, row, weight), inner)
