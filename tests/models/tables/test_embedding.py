"""Rows of a matrix, read and summed."""

from collections.abc import Iterator

import pytest
import torch

from corank.batches.batch import Csr
from corank.models.tables.embedding import gather, sum_rows

ROWS, READ = 12_288, 10_150


@pytest.fixture
def threads() -> Iterator[None]:
    """Two, as a machine of two cores has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", [0, 3])
def test_rows_of_any_width_are_read_on_several_threads(width: int) -> None:
    """A config without snapshots has rows of no numbers."""
    matrix = torch.arange(ROWS * width, dtype=torch.float32).reshape(ROWS, width)
    row = torch.arange(READ, dtype=torch.int32)
    pairs = torch.arange(0, READ + 1, 2, dtype=torch.int32)
    assert torch.equal(gather(matrix, row), matrix[:READ])
    assert torch.equal(sum_rows(matrix, Csr(row, None, None)), matrix[:READ])
    assert torch.equal(sum_rows(matrix, Csr(row, pairs, None)), matrix[0:READ:2] + matrix[1:READ:2])
