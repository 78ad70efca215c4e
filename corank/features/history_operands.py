"""What derived features take of histories: hashes, ages and mean vectors of their events' items.

Letters: R users or requests · E events of all of them.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from corank.core.ragged import Ragged, Rows, Vectors, take_known
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Ints, Longs
from corank.features.history import EventAge
from corank.features.operands import Operands, flatten_lists, select_lists
from corank.features.schema import Schema


def gather_history_operands(
    schema: Schema, items: dict[str, Ragged], operands: Operands, names: Iterable[str]
) -> dict[str, Ragged]:
    """Gather the operands `HISTORY` and `HISTORY.FEATURE` among `names` for R users, as lists of hashes.

    Args:
        items: by history the rows of its items, the newest last; of R users each.
        operands: of the items' rows.
    """
    lists = {}
    for name in names:
        feature = schema.of_items(name)
        if feature is not None and schema.features[feature].storage != "vector":
            lists[name] = gather_attribute(items[schema.history_of(name)], feature, operands)
    return lists


def gather_event_ages(
    aged: Mapping[tuple[str, EventAge], str],
    events: Mapping[str, Ints],
    ages: Mapping[str, Longs],
    items: Mapping[str, Ragged],
    operands: Operands,
) -> dict[tuple[str, EventAge], Ragged]:
    """Gather how old the event of each value of an operand is, for R users.

    Args:
        aged: operands, with how their ages are measured, and the history of each.
        events: by history how many events each user has: (R,).
        ages: by history, if they are measured in time, the ms from each event to the request: (E,).
        items: by history the rows of its items, of those with operands `HISTORY.FEATURE`.
        operands: of the items' rows.
    """
    gathered = {}
    for (operand, measure), history in aged.items():
        length = events[history]
        if measure == "time":
            age = np.maximum(ages[history], 0) / (DAY / MILLISECOND)
        else:
            newest = np.repeat(np.cumsum(length, dtype=np.int64) - 1, length)
            age = newest - np.arange(len(newest), dtype=np.float64)
        if (feature := operand.partition(".")[2]) in operands.lists:  # several values an event
            values = take_known(operands.lists[feature].length, items[history].flat())
            of = np.repeat(np.arange(len(length)), length)
            length, age = np.bincount(of, values, len(length)).astype(np.int32), np.repeat(age, values)
        gathered[operand, measure] = Ragged.from_lengths(length, age)
    return gathered


def average_history_vectors(
    schema: Schema, items: dict[str, Ragged], records: Rows, names: Iterable[str]
) -> dict[str, Vectors]:
    """Average what the items of R users' histories have of a vector: the operands `HISTORY.FEATURE` among `names`.

    An event counts by its weight. Items without a vector are left out; who has no other has none.

    Args:
        items: by history the rows of its items among `records`, −1 for none; of R users each.
        records: items, encoded.
    """
    placed, means = schema.row_features("item").vectors, {}
    for name in names:
        feature = schema.of_items(name)
        if feature is not None and schema.features[feature].storage == "vector":
            listed = items[schema.history_of(name)]
            vectors = records.vectors[placed.index(feature)]
            means[name] = vectors.means(listed.flat(), listed.length, listed.flat_weight())
    return means


def gather_attribute(items: Ragged, feature: str, operands: Operands) -> Ragged:
    """Gather what the items of R lists have of a feature, as R lists of hashes. Item −1 is missing."""
    row = items.flat()
    if feature in operands.keys:
        return Ragged.from_lengths(items.length, take_known(operands.keys[feature], row))
    return flatten_lists(items, select_lists(operands.lists[feature], row))
