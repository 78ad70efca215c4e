"""Encoded rows and batches made by hand, for tests of the model that need no packed data."""

import numpy as np

from corank.batches.batch import Batch, group
from corank.batches.build import EncodedBatch, build_batch
from corank.core.ragged import Ragged, Rows
from corank.features.input_layout import Bags, Layout
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.number import NumberFeature
from corank.features.schema import Schema

SCHEMA = Schema(
    {
        "user": IdFeature(side="user", kind="id", dim=8),
        "seen": IdsFeature(side="user", kind="ids", of="item", dim=8),
        "hour": BucketFeature(side="context", kind="bucket", dim=4),
        "age": NumberFeature(side="user", kind="number"),
        "item": IdFeature(side="item", kind="id", dim=8),
        "tags": IdsFeature(side="item", kind="ids", dim=4, pool="sum"),
        "price": NumberFeature(side="item", kind="number"),
        "pair": IdFeature(side="cross", kind="id", dim=8),
        "match": NumberFeature(side="cross", kind="number"),
    }
)
SIZES = {"user": 9, "hour": 6, "item": 30, "tags": 7, "pair": 12}
LAYOUT = Layout(SCHEMA, SIZES)


def _ragged(rng: np.random.Generator, rows: int, size: int) -> Ragged:
    return Ragged.from_lists([rng.integers(1, size, rng.integers(0, 5)).tolist() for _ in range(rows)])


def rows(rng: np.random.Generator, requests: int, items: int, candidates: int) -> tuple[Rows, Rows, Rows]:
    """Query rows (R), item rows (I) and cross rows (C) with random codes, lists and numbers."""
    ids = [rng.integers(0, SIZES[n], requests) for n in ("user", "hour")]
    query = Rows(
        np.stack(ids, axis=1).astype(np.int32),
        rng.normal(size=(requests, 1)).astype(np.float32),
        (_ragged(rng, requests, SIZES["item"]),),
    )
    item = Rows(
        rng.integers(0, SIZES["item"], (items, 1)).astype(np.int32),
        rng.normal(size=(items, 1)).astype(np.float32),
        (_ragged(rng, items, SIZES["tags"]),),
    )
    cross = Rows(
        rng.integers(0, SIZES["pair"], (candidates, 1)).astype(np.int32),
        rng.normal(size=(candidates, 1)).astype(np.float32),
        (),
    )
    return query, item, cross


def encoded_batch(
    sides: tuple[Rows, Rows, Rows],
    request_of: np.ndarray,
    item_of: np.ndarray,
    level: np.ndarray,
    click: np.ndarray,
) -> EncodedBatch:
    """Encoded rows with levels 0 (cut), 1 (kept), 2 (exposed)."""
    query, item, cross = sides
    codes, start, order = group(item_of.astype(np.int32))
    assert len(codes) == len(item), "every item must occur in a candidate"
    return EncodedBatch(
        user=np.zeros(len(query), np.int32),
        query=query,
        item=item,
        cross=cross,
        request_of=request_of.astype(np.int32),
        item_of=item_of.astype(np.int32),
        item_row=np.arange(len(item), dtype=np.int32),
        ordinal=np.arange(len(item), dtype=np.int32),
        by_item=Bags(order, start, None, len(item)),
        level=level.astype(np.uint8),
        exposed=2,
        weight=np.ones(len(level), np.float32),
        labels={"click": click.astype(np.float32)},
    )


def batch(
    sides: tuple[Rows, Rows, Rows],
    request_of: np.ndarray,
    item_of: np.ndarray,
    level: np.ndarray,
    click: np.ndarray,
) -> Batch:
    """A batch with levels 0 (cut), 1 (kept), 2 (exposed)."""
    return build_batch(LAYOUT, encoded_batch(sides, request_of, item_of, level, click))


def random_batch(seed: int, requests: int = 5, items: int = 7) -> tuple[Batch, Batch]:
    """The same candidates as a request-major batch and as one of a row a candidate."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 6, requests)
    request_of = np.repeat(np.arange(requests), size)
    item_of = np.concatenate([rng.permutation(items)[:n] for n in size])
    _, item_of = np.unique(item_of, return_inverse=True)
    candidates = len(request_of)
    sides = rows(rng, requests, int(item_of.max()) + 1, candidates)
    level = rng.integers(0, 3, candidates)
    level[0] = 2
    click = np.where(level == 2, rng.integers(0, 2, candidates), -1)
    each = np.arange(candidates)
    repeated = (sides[0].take(request_of), sides[1].take(item_of), sides[2])
    return batch(sides, request_of, item_of, level, click), batch(repeated, each, each, level, click)
