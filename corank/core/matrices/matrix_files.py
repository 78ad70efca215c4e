"""Stored matrices as npy files: `NAME.npy` has the numbers, `NAME.scale.npy` the scale of each row of int8.

Letters: N rows · d width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from corank.core.arrays import append_array, read_array
from corank.core.matrices.stored_matrix import DTYPES, Precision, StoredMatrix

AppendRows = Callable[[StoredMatrix], None]


def scale_file(path: Path) -> Path:
    """The file of the scales that belong to a file of numbers."""
    return path.with_name(f"{path.name.removesuffix('.npy')}.scale.npy")


@contextmanager
def append_rows(path: Path, shape: tuple[int, int], precision: Precision) -> Iterator[AppendRows]:
    """Write a matrix part by part. The block gets a function that appends rows; all must make up `shape`."""
    with ExitStack() as stack:
        values = stack.enter_context(append_array(path, shape, DTYPES[precision]))
        scales = None
        if precision == "int8":
            scales = stack.enter_context(append_array(scale_file(path), shape[:1], np.float32))

        def append(rows: StoredMatrix) -> None:
            assert rows.precision == precision
            values(rows.values)
            if scales is not None and rows.scale is not None:
                scales(rows.scale)

        yield append


def write_matrix(path: Path, matrix: StoredMatrix) -> None:
    """Write a matrix."""
    with append_rows(path, matrix.shape, matrix.precision) as append:
        append(matrix)


def read_matrix(path: Path, width: int, precision: Precision) -> StoredMatrix:
    """Memory-map a matrix of a width and a precision.

    Raises DataError if a file is missing, damaged, or of another type or shape.
    """
    values = read_array(path, DTYPES[precision], (None, width))
    if precision != "int8":
        return StoredMatrix(values)
    return StoredMatrix(values, read_array(scale_file(path), np.float32, (len(values),)))
