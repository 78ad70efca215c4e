"""Stored matrices against the arithmetic that their module states, written out number by number."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from corank.core.arrays import write_array
from corank.core.errors import DataError
from corank.core.stored_matrix import (
    DTYPES,
    Precision,
    StoredMatrix,
    append_rows,
    bytes_a_row,
    read_matrix,
    scale_file,
    write_matrix,
)
from corank.core.types import Floats

PRECISIONS: list[Precision] = list(DTYPES)
shapes = st.tuples(st.integers(0, 5), st.integers(1, 4))
matrices = arrays.arrays(np.float32, shapes, elements=st.floats(-60_000, 60_000, width=32))


def read_by_hand(x: np.float32, row: Floats, precision: Precision) -> float:
    """The value read back for a number of a row, by scalar float32 arithmetic."""
    if precision == "fp32":
        return float(x)
    if precision == "fp16":
        return float(np.float16(x))
    scale = np.float32(max(abs(one) for one in row.tolist())) / np.float32(127)
    if scale < np.float32(2.0**-126):
        return 0.0
    whole = round(float(x / scale))  # Python rounds ties to even, too
    assert abs(whole) <= 127
    return float(np.float32(whole) * scale)


@given(matrices)
def test_every_number_is_what_the_stated_arithmetic_gives(matrix: Floats) -> None:
    for precision in PRECISIONS:
        encoding = StoredMatrix.encode(matrix, precision)
        expected = [[read_by_hand(x, row, precision) for x in row] for row in matrix]
        assert encoding.decode().tolist() == expected
        assert encoding.precision == precision and encoding.shape == matrix.shape
        assert encoding.decode().dtype == np.float32


def test_every_half_is_read_as_it_is() -> None:
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    pairs = halves[np.isfinite(halves)].reshape(-1, 2)
    values, expected = StoredMatrix(pairs).decode(), pairs.astype(np.float32)
    assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("precision", "numbers"), [("fp16", [65_520, 1]), ("int8", [math.inf, 1])])
def test_what_a_precision_cannot_hold_is_refused(precision: Precision, numbers: list[float]) -> None:
    matrix = np.array([[0, 1], numbers], dtype=np.float32)
    with pytest.raises(DataError, match=f"prerank.vector: 1 of 2 items have a number that {precision}"):
        StoredMatrix.encode(matrix, precision, "prerank.vector")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_hold_what_was_written(tmp_path: Path, precision: Precision) -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    encoding, path = StoredMatrix.encode(matrix, precision), tmp_path / "a.npy"
    write_matrix(path, encoding)
    with append_rows(tmp_path / "parts.npy", (5, 3), precision) as append:
        append(encoding.select(np.arange(2)))
        append(encoding.select(np.arange(2, 5)))
    assert path.read_bytes() == (tmp_path / "parts.npy").read_bytes()
    np.testing.assert_array_equal(read_matrix(path, 3, precision).decode(), encoding.decode())
    sizes = sum(np.load(file).nbytes for file in (path, scale_file(path)) if file.exists())
    assert sizes == 5 * bytes_a_row(3, precision)


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_matrix(path, StoredMatrix.encode(np.ones((4, 3), dtype=np.float32), "int8"))
    with pytest.raises(DataError, match="expected float16; found int8"):
        read_matrix(path, 3, "fp16")
    with pytest.raises(DataError, match=r"expected the shape \(any, 2\)"):
        read_matrix(path, 2, "int8")
    write_array(scale_file(path), np.ones(3, dtype=np.float32))
    with pytest.raises(DataError, match=r"a.scale.npy: expected the shape \(4\)"):
        read_matrix(path, 3, "int8")
    scale_file(path).unlink()
    with pytest.raises(DataError, match=r"a\.scale\.npy"):
        read_matrix(path, 3, "int8")
