"""Batches against the packed arrays they are read from."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from corank.batches.batch import Batch, Csr, group
from corank.batches.reader import Reader
from corank.core.ragged import Rows
from corank.data.packed.dataset import PackedDataset
from corank.features.encoding import Placement
from corank.features.input_layout import Attended
from corank.training.config.config_file import read
from corank.training.packed_data import open_packed

SIZE = 50
"""Requests a batch; no divisor of the split's."""
RETRIEVED, PRERANKED, RANKED, EXPOSED = range(4)


@pytest.fixture(scope="module")
def packed(world: Path) -> PackedDataset:
    return open_packed(read(world / "config.yaml"), world)


def flat(batch: Batch) -> list[np.ndarray]:
    """All arrays of a batch."""
    csrs = [batch.requests, batch.items, batch.pairs]
    for lookup in batch.lookups.values():
        csrs += [*lookup.reads.values(), lookup.back]
    tensors = [tensor for csr in csrs for tensor in vars(csr).values() if tensor is not None]
    tensors += [*batch.numbers.values(), batch.request_of, batch.item_of, batch.level, batch.weight]
    return [tensor.numpy() for tensor in [*tensors, *batch.labels.values()]]


def same(one: list[Batch], other: list[Batch]) -> bool:
    if len(one) != len(other):
        return False
    pairs = [(flat(a), flat(b)) for a, b in zip(one, other, strict=True)]
    return all(
        len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in pairs
    )


def sums(csr: Csr, matrix: np.ndarray) -> np.ndarray:
    """Sum the terms of a CSR one by one."""
    rows = csr.row.numpy()
    weight = np.ones(len(rows)) if csr.weight is None else csr.weight.numpy()
    start = np.arange(len(rows) + 1) if csr.start is None else csr.start.numpy()
    out = np.zeros((len(start) - 1, matrix.shape[1]))
    for bag in range(len(out)):
        for j in range(start[bag], start[bag + 1]):
            out[bag] += weight[j] * matrix[rows[j]]
    return out


def test_ordered_batches_hold_every_candidate_as_packed(packed: PackedDataset) -> None:
    (shard,) = packed.splits["train"]
    layout = Reader(packed, "train", SIZE).layout
    first = request = 0
    for batch in Reader(packed, "train", SIZE).read_ordered():
        count = len(batch)
        rows, requests = slice(first, first + count), len(batch.numbers["query"])
        assert requests == min(SIZE, len(shard) - request)
        # whole requests: those that begin in this batch end in it
        assert shard.request_start[request] == first
        assert shard.request_start[request + requests] == first + count
        sizes = np.diff(shard.request_start[request : request + requests + 1])
        np.testing.assert_array_equal(batch.request_of, np.repeat(np.arange(requests), sizes))
        np.testing.assert_array_equal(batch.level, shard.level[rows])
        np.testing.assert_array_equal(batch.labels["click"], shard.labels["click"][rows])
        np.testing.assert_array_equal(batch.numbers["cross"], shard.cross.numbers[rows])
        np.testing.assert_array_equal(
            batch.numbers["query"], shard.query.numbers[request : request + requests]
        )
        distinct, place = np.unique(shard.item[rows], return_inverse=True)
        np.testing.assert_array_equal(batch.item_of, place)
        np.testing.assert_array_equal(batch.numbers["item"], packed.items.numbers[distinct])
        assert (batch.weight == 1).all()
        assert batch.exposed == EXPOSED
        # every table row that the encoded rows name, and no other
        for dim, lookup in batch.lookups.items():
            query, item = (
                shard.query.take(np.arange(request, request + requests)),
                packed.items.take(distinct),
            )
            expected: dict[Placement | Attended, Rows] = {
                "query": query,
                "item": item,
                "cross": shard.cross.take(np.arange(*rows.indices(10**9))),
            }
            for placement, read_ in lookup.reads.items():
                assert not isinstance(placement, Attended)
                (group,) = [g for g in layout.groups[placement] if g.dim == dim]
                np.testing.assert_array_equal(read_.row, group.bags(expected[placement]).row)
        first, request = first + count, request + requests
    assert (first, request) == (shard.request_start[-1], len(shard))


def marks(batches: list[Batch]) -> list[float]:
    """A mark of every request of the batches: the sums of its candidates' crosses and items' numbers."""
    sums_of_requests = []
    for batch in batches:
        each = batch.numbers["cross"][:, 0].double() + 7 * batch.numbers["item"][batch.item_of.long(), 0]
        sums_of_requests += np.bincount(batch.request_of, each, len(batch.numbers["query"])).tolist()
    return sorted(sums_of_requests)


def test_an_epoch_holds_each_request_once_in_an_order_of_its_own(packed: PackedDataset) -> None:
    reader = Reader(packed, "train", SIZE, seed=3)
    (shard,) = packed.splits["train"]
    first, again, second = (
        list(reader.read_shuffled(0)),
        list(reader.read_shuffled(0)),
        list(reader.read_shuffled(1)),
    )
    assert len(first) == len(reader) == -(-len(shard) // SIZE)
    expected = marks(list(reader.read_ordered()))
    assert len(set(expected)) > 0.99 * len(shard)  # marks tell requests apart
    assert marks(first) == pytest.approx(expected)
    assert marks(second) == pytest.approx(expected)
    assert same(first, again)
    assert not same(first, second)
    assert not same(first, list(Reader(packed, "train", SIZE, seed=4).read_shuffled(0)))


def test_keys_are_grouped_alike_however_they_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).integers(-5, 70_000, 2_000).astype(np.int32) // 40
    grouped = []
    for at_once in (False, True):
        monkeypatch.setattr("corank.batches.batch.sorts_at_once", partial(bool, at_once))
        grouped.append(group(keys))
    for one, other in zip(*grouped, strict=True):
        assert one.dtype == other.dtype == np.int32
        np.testing.assert_array_equal(one, other)
    distinct, start, order = grouped[0]
    np.testing.assert_array_equal(keys[order], np.repeat(distinct, np.diff(start)))
