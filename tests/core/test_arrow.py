"""What is read of Arrow's buffers is what Arrow says, and pandas is not asked for."""

import numpy as np
import pyarrow as pa
import pytest

from corank.core.arrow import to_mask, to_numbers


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.int32(), pa.float32()])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_numbers_and_nulls_of_a_part_of_an_array(kind: pa.DataType, share: float) -> None:
    rng = np.random.default_rng(0)
    values = [None if rng.random() < share else int(n) for n in rng.integers(0, 9, 40)]
    for first, count in ((0, 40), (3, 21), (39, 1), (40, 0)):
        part = pa.array(values, kind).slice(first, count)
        numbers = to_numbers(part)
        assert numbers.dtype == kind.to_pandas_dtype()
        assert numbers.tolist() == [value or 0 for value in part.to_pylist()]
        assert to_mask(part.is_null()).tolist() == [value is None for value in part.to_pylist()]
