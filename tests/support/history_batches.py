"""Batches whose requests have histories, for tests of attention."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from corank.batches.batch import Batch
from corank.batches.build import EventRows, build_batch
from corank.core.ragged import Ragged, Rows
from corank.features.input_layout import Attended
from corank.testing.batches import LAYOUT, encoded_batch, rows

ATTENDED = Attended("seen", ("item", "tags"))
HELD = 33
"""Distinct items of the histories; enough that dense inputs are filled up."""

Request = tuple[int, list[int]]
"""How many candidates it has, and its events, as places among the HELD."""

request = st.tuples(st.integers(0, 3), st.lists(st.sampled_from((0, 3, 5, 32)), max_size=4))
requests = st.lists(request, min_size=1, max_size=5)

RAGGED: list[Request] = [(2, [3, 0, 3]), (0, [5]), (3, []), (0, []), (1, [0, 32])]


def attended(
    of: Sequence[Request], seed: int = 0, ages: bool = False, history: Attended = ATTENDED
) -> tuple[Batch, Batch]:
    """The same candidates as a request-major batch and as one of a row a candidate.

    The items of the candidates are the first of the HELD.
    """
    rng = np.random.default_rng(seed)
    request_of = np.repeat(np.arange(len(of)), [size for size, _ in of]).astype(np.int32)
    count = len(request_of)
    _, item_of = np.unique(rng.integers(0, 6, count), return_inverse=True)
    query, records, cross = rows(rng, len(of), HELD, count)
    item = records.take(np.arange(item_of.max(initial=-1) + 1))
    lists = Ragged.from_lists([codes for _, codes in of])
    drawn = rng.uniform(0, 30, len(lists.values)).astype(np.float32)
    events = EventRows(records, lists, Ragged.from_lengths(lists.length, drawn) if ages else None)
    level, click = np.full(count, 2, np.uint8), rng.integers(0, 2, count).astype(np.float32)

    def batch(
        query: Rows, item: Rows, request_of: np.ndarray, item_of: np.ndarray, events: EventRows
    ) -> Batch:
        encoded = encoded_batch((query, item, cross), request_of, item_of, level, click)
        return build_batch(LAYOUT, replace(encoded, histories={history: events}))

    each = np.arange(count, dtype=np.int32)
    return (
        batch(query, item, request_of, item_of.astype(np.int32), events),
        batch(query.take(request_of), item.take(item_of), each, each, events.take(request_of)),
    )
