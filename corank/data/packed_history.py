"""What requests know of their users' past: items as they were at the request, their attributes, how much each counts.

A history is kept once a user and cut for each request. What an item was is looked up as of the request, not the event:
that is what a service finds in its records.

Letters: R requests.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from corank.core.ragged import Ragged, Rows
from corank.core.types import Index
from corank.data.dataset import PackedDataset, Shard
from corank.features.encoding import MISSING
from corank.features.history import HistoryNeeds, recency_weights
from corank.features.operands import Operands, flatten_lists, gather_history_operands, select_lists
from corank.features.schema import Schema


def read_history_items(
    packed: PackedDataset, shard: Shard, requests: Index, names: Iterable[str]
) -> dict[str, Ragged]:
    """By history the item rows, as of each request, of its events, the newest last: R lists."""
    found = {}
    lists = packed.schema.row_features("query").lists
    for name in names:
        history = packed.schema.histories()[name]
        events = packed.events[history.events]
        view = shard.query.lists[lists.index(name)].take(requests)
        place, time = view.positions(), np.repeat(shard.time[requests], view.length)
        rows = packed.item_versions.find_at(events.ordinals[place], time)
        weight = recency_weights(time - events.times[place], history.half_life) if history.half_life else None
        found[name] = Ragged.from_lengths(view.length, rows, weight)
    return found


def read_query_rows(
    packed: PackedDataset, shard: Shard, requests: Index, items: Mapping[str, Ragged]
) -> Rows:
    """The query's rows of R requests, what depends on their histories made ready; `items` of
    `HistoryNeeds.for_rows` at least."""
    return add_histories(packed.schema, shard.query.take(requests), items, packed.items)


def request_operands(packed: PackedDataset, shard: Shard, requests: Index) -> Operands:
    """The operands of R requests, their histories' too."""
    needs = HistoryNeeds.of(packed.schema)
    items = read_history_items(packed, shard, requests, needs.for_operands)
    found = gather_history_operands(packed.schema, items, packed.item_operands, needs.operands)
    return shard.operands(packed.schema).take(requests).with_lists(found)


def add_histories(schema: Schema, rows: Rows, items: Mapping[str, Ragged], records: Rows) -> Rows:
    """The query's rows with the attributes of their histories' items, and each event's weight where they differ.

    Args:
        items: by history the rows of its items among `records`, −1 for an item without one.
    """
    attributes = schema.attributes()
    lists = list(rows.lists)
    for n, name in enumerate(schema.row_features("query").lists):
        if name in attributes:
            history, feature = attributes[name]
            lists[n] = attribute_codes(schema, items[history], feature, records)
        elif name in items and items[name].weight is not None:
            lists[n] = Ragged.from_lengths(lists[n].length, lists[n].flat(), items[name].weight)
    return Rows(rows.ids, rows.numbers, tuple(lists))


def attribute_codes(schema: Schema, items: Ragged, feature: str, records: Rows) -> Ragged:
    """The codes that the items of R lists have of an item feature, one after another: R lists."""
    row, placed, weight = items.flat(), schema.row_features("item"), items.flat_weight()
    if schema.features[feature].storage == "id":
        found = np.full(len(row), MISSING, dtype=np.int32)
        found[row >= 0] = records.ids[row[row >= 0], placed.ids.index(feature)]
        return Ragged.from_lengths(items.length, found, weight)
    inner = select_lists(records.lists[placed.lists.index(feature)], row)
    return flatten_lists(Ragged.from_lengths(items.length, row, weight), inner)
