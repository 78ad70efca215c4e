"""The columns of what attention reads of events: of their items, and of the lists that are `parallel_to` the history.

The encoded rows of events are those of their items, with a column of ids more for each list that is `parallel_to` the
history, in the order of `Schema.parallels_of`.
"""

from collections.abc import Collection

import numpy as np

from corank.features.input_layout import Columns, Group, Layout


def event_groups(layout: Layout, history: str, features: Collection[str]) -> tuple[Group, ...]:
    """The groups of the embedded features that attention reads of the events of a history.

    Args:
        layout: of the tables.
        history: whose events.
        features: of items, and lists that are `parallel_to` the history.
    """
    beside = layout.schema.parallels_of(history)
    of_items = {group.dim: group for group in layout.groups_of("item", features)}
    of_events: dict[int, list[str]] = {}
    for name in (n for n in beside if n in features):
        of_events.setdefault(layout.schema.features[name].width, []).append(name)
    none = Group(0, np.empty(0, np.int64), np.empty(0, np.int32), ())
    groups = []
    for dim in sorted(of_items.keys() | of_events.keys()):
        item_group, names = of_items.get(dim, none), of_events.get(dim, [])
        # counted from the end: how many columns are before depends on the rows, be they packed or records of a bundle
        last = np.array([beside.index(n) - len(beside) for n in names], dtype=np.int64)
        offsets = np.array([layout.offset[n] for n in names], dtype=np.int32)
        ids, of_ids = np.concatenate((item_group.ids, last)), np.concatenate((item_group.offsets, offsets))
        groups.append(Group(dim, ids, of_ids, item_group.lists))
    return tuple(groups)


def event_columns(layout: Layout, history: str, features: Collection[str]) -> tuple[Columns, Columns]:
    """The columns of an event's dense input: those that its item has, in the order of `Layout.columns`, and its own.

    Args: as in `event_groups`.
    """
    of_items: list[int] = []
    of_events: list[int] = []
    at = 0
    for group in event_groups(layout, history, features):
        known = at + group.dim * int((group.ids >= 0).sum())
        listed = at + group.dim * len(group.ids)
        of_items += [*range(at, known), *range(listed, at + group.width)]
        of_events += range(known, listed)
        at += group.width
    of_items += range(at, at + sum(vector.width for vector in layout.vectors_of("item", features)))
    return np.array(of_items, dtype=np.int64), np.array(of_events, dtype=np.int64)


def event_width(layout: Layout, history: str, features: Collection[str]) -> int:
    """Columns of an event's dense input. Args: as in `event_groups`."""
    return sum(map(len, event_columns(layout, history, features)))
