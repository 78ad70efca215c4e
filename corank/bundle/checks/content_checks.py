"""What the arrays of a bundle must hold, so that one that was altered is refused when it is opened, not by a request.

Every check reads an array once, a block at a time.

Letters: N rows · V values of lists, or vectors.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.matrices.stored_matrix import DTYPES, LARGEST_SCALE, Precision, StoredMatrix
from corank.core.ragged import NONE, Ragged, Vectors
from corank.core.types import Index, Mask, Numbers

BLOCK = 1 << 18
"""Values of an array that are checked at once."""


def check_form(
    array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...], where: str
) -> None:
    """Raise DataError, which names `where`, unless an array has a type and a shape."""
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{where}: expected {np.dtype(dtype)} of shape {shape}; found {array.dtype} of shape {array.shape}"
        )


def check_finite(values: Numbers, where: str, or_nan: bool = False) -> None:
    """Raise DataError if a number is not finite; `or_nan` if NaN stands for missing."""
    flat = values.reshape(-1)
    for first in range(0, len(flat), BLOCK):
        some = flat[first : first + BLOCK]
        if np.isinf(some).any() if or_nan else not np.isfinite(some).all():
            raise DataError(f"{where}: holds an infinity" + ("" if or_nan else " or NaN"))


def check_matrix(matrix: StoredMatrix, precision: Precision, shape: tuple[int, int], where: str) -> None:
    """Raise DataError unless a matrix has a precision and a shape, and all that is read of it is finite."""
    check_form(matrix.values, DTYPES[precision], shape, where)
    if precision != "int8":
        return check_finite(matrix.values, where)
    scale = np.empty(0) if matrix.scale is None else matrix.scale
    check_form(scale, np.float32, shape[:1], f"{where}: scales")
    for first in range(0, len(scale), BLOCK):
        some = scale[first : first + BLOCK]
        if not ((some >= 0) & (some <= LARGEST_SCALE)).all():
            raise DataError(f"{where}: scales: expected numbers from 0 to {LARGEST_SCALE:g}")
    return None


def check_codes(codes: Index, size: int, where: str) -> None:
    """Raise DataError unless every code is a row of a table of `size` rows."""
    if codes.size and not (codes.min() >= 0 and codes.max() < size):
        raise DataError(f"{where}: codes from {codes.min()} to {codes.max()}; the table has {size:,} rows")


def check_ascending(values: pl.Series | NDArray[Any], where: str) -> None:
    """Raise DataError unless each value is greater than the one before."""
    steps: Mask = np.asarray(values[:-1] < values[1:])
    if not steps.all():
        n = int(np.argmin(steps))
        raise DataError(f"{where}: must ascend; found {values[n]!r} before {values[n + 1]!r}")


def check_row_vectors(vectors: Vectors, count: int, width: int, where: str) -> None:
    """Raise DataError unless N rows have finite vectors of a width, or none, among their V vectors."""
    check_form(vectors.row, np.int32, (count,), f"{where}.row.npy")
    check_form(vectors.values, np.float16, (len(vectors.values), width), f"{where}.values.npy")
    if count and not (vectors.row.min() >= NONE and vectors.row.max() < len(vectors.values)):
        raise DataError(f"{where}.row.npy: a vector lies beyond the {len(vectors.values):,} that there are")
    check_finite(vectors.values, f"{where}.values.npy")


def check_ragged(lists: Ragged, count: int, dtype: type[np.generic], where: str) -> None:
    """Raise DataError unless N lists lie within their V values."""
    check_form(lists.start, np.int64, (count,), f"{where}.start")
    check_form(lists.length, np.int32, (count,), f"{where}.length")
    check_form(lists.values, dtype, (lists.values.size,), f"{where}.values")
    if not count:
        return
    if lists.start.min() < 0 or lists.length.min() < 0 or lists.start.max() > lists.values.size:
        raise DataError(f"{where}: a list begins outside of its {lists.values.size:,} values")
    if (lists.start + lists.length).max() > lists.values.size:
        raise DataError(f"{where}: a list ends beyond its {lists.values.size:,} values")
