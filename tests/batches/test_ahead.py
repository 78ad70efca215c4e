"""Batches known ahead."""

from collections.abc import Iterator

import pytest

from corank.batches.ahead import pair_batches
from corank.batches.batch import Batch
from corank.testing.batches import random_batch


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_batch_comes_with_the_one_after_it_which_is_read_before_if_asked(
    count: int, ahead: bool
) -> None:
    batches, read = [random_batch(seed)[0] for seed in range(count)], 0

    def reader() -> Iterator[Batch]:
        nonlocal read
        for batch in batches:
            read += 1
            yield batch

    pairs = []
    for number, pair in enumerate(pair_batches(reader(), ahead), start=1):
        assert read == min(count, number + ahead)
        pairs.append(pair)
    assert [batch for batch, _ in pairs] == batches
    assert [following for _, following in pairs] == (
        [*batches[1:], None][:count] if ahead else [None] * count
    )
