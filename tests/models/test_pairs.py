"""Rows meet in candidates alike in a batch and in one request of an exported graph."""

import torch

from corank.models.pairs import BatchPairs, RequestPairs
from tests.support.encoded_batches import random_batch


def test_one_request_gives_what_its_rows_of_a_batch_do() -> None:
    batch, _ = random_batch(3)
    torch.manual_seed(0)
    query, item = torch.randn(len(batch.numbers["query"]), 5), torch.randn(len(batch.numbers["item"]), 5)
    pairs = BatchPairs(batch)
    count = len(pairs.spread_query(query))
    terms = torch.randn(count, 5), torch.randn(count, 5)
    start = batch.requests.start
    assert start is not None
    for request in range(len(query)):
        rows = slice(int(start[request]), int(start[request + 1]))
        items = item[batch.item_of[rows].long()]
        alone, one = RequestPairs(len(items)), query[request : request + 1]
        close = torch.testing.assert_close
        close(alone.sum(one, items), pairs.sum(query, item)[rows])
        close(alone.sum(one, items, *(term[rows] for term in terms)), pairs.sum(query, item, *terms)[rows])
        close(alone.dot(one, items), pairs.dot(query, item)[rows])
        close(alone.spread_query(one), pairs.spread_query(query)[rows])
        close(alone.spread_item(items), pairs.spread_item(item)[rows])
        assert torch.equal(alone.fill(items), items)


def test_a_batch_is_filled_up_with_zeros() -> None:
    batch, _ = random_batch(2, requests=14, items=40)
    x = torch.ones(len(batch), 3)
    filled = BatchPairs(batch).fill(x)
    assert len(filled) > len(x) and torch.equal(filled[: len(x)], x) and not filled[len(x) :].any()
