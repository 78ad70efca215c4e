"""Batches made by hand whose items have snapshot features, too."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from corank.batches.batch import Batch
from corank.batches.build import build_batch
from corank.core.ragged import Rows
from corank.core.types import Longs
from corank.features.input_layout import Layout
from corank.features.kinds.prior import PriorFeature
from corank.features.schema import Schema
from corank.testing import batches as encoded_batches
from corank.testing.batches import encoded_batch, rows

SCHEMA = Schema(
    {
        **encoded_batches.SCHEMA.features,
        "clicked": PriorFeature(kind="prior", by=["item"], label="click", every=timedelta(hours=1)),
        "shown": PriorFeature(kind="prior", by=["item"]),
        "often": PriorFeature(kind="prior", by=["item"], every=timedelta(hours=6), buckets=3, dim=4),
    }
)
BUCKETS = 5
LAYOUT = Layout(SCHEMA, encoded_batches.SIZES | {"often": BUCKETS})


def snapshot_batch(seed: int, requests: int = 6, items: int = 7) -> tuple[Batch, Batch, Longs]:
    """The same candidates as a request-major batch and as one of a row a candidate; and the times of the requests.

    Some requests come at the same time.
    """
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 6, requests)
    request_of = np.repeat(np.arange(requests), size)
    _, item_of = np.unique(np.concatenate([rng.permutation(items)[:n] for n in size]), return_inverse=True)
    count = len(request_of)
    sides = rows(rng, requests, int(item_of.max()) + 1, count)
    level = rng.integers(0, 3, count)
    level[0] = 2
    click = np.where(level == 2, rng.integers(0, 2, count), -1)
    time = rng.integers(0, requests, requests)
    snapshot = Rows(
        rng.integers(0, BUCKETS, (count, 1)).astype(np.int32),
        rng.normal(size=(count, 2)).astype(np.float32),
        (),
    )
    each = np.arange(count)
    repeated = (sides[0].take(request_of), sides[1].take(item_of), sides[2])
    by_request = encoded_batch(sides, request_of, item_of, level, click)
    by_row = encoded_batch(repeated, each, each, level, click)
    return (
        build_batch(LAYOUT, replace(by_request, snapshot=snapshot, time=time)),
        build_batch(LAYOUT, replace(by_row, snapshot=snapshot, time=time[request_of])),
        time,
    )
