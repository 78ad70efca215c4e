"""Replayed logged requests: the funnel encodes exactly what was packed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corank.analysis.logged_request import logged_request
from corank.core.errors import DataError
from corank.core.ragged import Rows
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run
from tests.support.cases import Case, bare_funnel
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case


def encoded(funnel: Funnel, request: dict[str, Any]) -> Rows:
    """The query row as the funnel encodes it, before any table is read."""
    received = funnel.encode(Request.parse(json.loads(json.dumps(request))))
    assert received.requests[0].missing == []
    return received.query


def assert_replayed(funnel: Funnel, run: Run, packed: PackedDataset, split: str, numbers: range) -> list[int]:
    """Every request's row equals the packed one; the lengths of its lists."""
    (shard,) = packed.splits[split]
    lengths = []
    for number in numbers:
        request = logged_request(run, split, number)
        index = np.array([number])
        past = read_history_items(packed, shard, index, HistoryNeeds.of(packed.schema).for_rows)
        ours, theirs = encoded(funnel, request), read_query_rows(packed, shard, index, past)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.numbers, theirs.numbers)
        assert ours.numbers.dtype == theirs.numbers.dtype == np.float32
        for mine, packed_list in zip(ours.lists, theirs.lists, strict=True):
            np.testing.assert_array_equal(mine.flat(), packed_list.flat())
            weights = mine.flat_weight(), packed_list.flat_weight()
            np.testing.assert_array_equal(*weights) if weights[0] is not None else None
            assert (weights[0] is None) == (weights[1] is None)
            lengths.append(int(mine.length[0]))
        rows = slice(*shard.request_start[number : number + 2])
        candidates = [c["id"] if isinstance(c, dict) else c for c in request["candidates"]]
        assert candidates == packed.item_keys["item"].gather(shard.item[rows]).to_list()
        assert request["time"] == shard.time[number]
    return lengths


@pytest.fixture(scope="module")
def rich() -> Case:
    return shared_case(RICH)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_random_requests_are_encoded_as_packed(rich: Case, tmp_path: Path, split: str) -> None:
    bare = bare_funnel(rich.packed, tmp_path / "bundle")
    requests = range(len(rich.packed.splits[split][0]))
    lengths = assert_replayed(bare, rich.run, rich.packed, split, requests)
    assert min(lengths) == 0
    assert max(lengths) >= 3


def test_requests_that_are_not_there_are_refused(rich: Case) -> None:
    count = len(rich.packed.splits["test"][0])
    with pytest.raises(DataError, match=f"no request {count} in 'test': it has {count}, numbered from 0"):
        logged_request(rich.run, "test", count)
    with pytest.raises(DataError, match=r"no split 'tset': data\.split gives train, valid, test"):
        logged_request(rich.run, "tset", 0)
