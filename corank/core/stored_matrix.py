"""A matrix as it is stored: fp32, fp16, or int8 with a scale a row. Only the rows that are read are decoded.

The arithmetic is exact, so that a reader in another language gives the same numbers:

fp16    stored: the nearest float16, ties to even; read: that number
int8    scale = max |x| of the row / 127, rounded to float32; stored: x / scale, rounded to float32, then to the nearest
        whole number, ties to even; read: that number · scale, rounded to float32. A row whose scale would be below
        2^-126 has scale 0, and is stored as zeros.

As npy files, `NAME.npy` has the numbers, `NAME.scale.npy` the scale of each row of int8.

Letters: N rows · d width · P rows to read.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.arrays import append_array, read_array
from corank.core.errors import DataError
from corank.core.ragged import widen
from corank.core.subnormal import flush_subnormals
from corank.core.types import Floats, Index

Precision = Literal["fp32", "fp16", "int8"]
"""How a number is stored."""
DTYPES: dict[Precision, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
"""The type of the stored numbers of each precision."""
MOST = 127
"""Largest whole number of int8; −128 is never written."""
LARGEST_SCALE = float(np.finfo(np.float32).max) / 128
"""A scale beyond it could give an infinity."""
BLOCK = 1 << 18
"""Numbers that are encoded at once."""


def bytes_a_row(width: int, precision: Precision) -> int:
    """Bytes of a row of d numbers, with its scale.

    Example:
        >>> [bytes_a_row(32, precision) for precision in ("fp32", "fp16", "int8")]
        [128, 64, 36]
    """
    return width * np.dtype(DTYPES[precision]).itemsize + 4 * (precision == "int8")


@dataclass(frozen=True)
class StoredMatrix:
    """N rows of d numbers, in memory or memory-mapped.

    Example:
        >>> matrix = StoredMatrix.encode(np.array([[1.0, -0.5], [0.0, 0.0]], dtype=np.float32), "int8")
        >>> matrix.values.tolist(), matrix.scale.tolist()
        ([[127, -64], [0, 0]], [0.007874015718698502, 0.0])
    """

    values: NDArray[Any]
    """float32, float16 or int8: (N, d)."""
    scale: Floats | None = None
    """What a row of int8 is multiplied by: (N,)."""

    @classmethod
    def encode(cls, matrix: Floats, precision: Precision, what: str = "a matrix") -> Self:
        """Store a matrix (N, d) at a precision. Raises DataError, which names `what`, if a number is too large for it.

        A matrix in fp32 is taken as it is.
        """
        if precision == "fp32":
            return cls(matrix)
        step = max(1, BLOCK // max(1, matrix.shape[1]))
        values = np.empty(matrix.shape, dtype=DTYPES[precision])
        scale = np.empty(len(matrix), dtype=np.float32) if precision == "int8" else None
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(matrix), step):
                rows = slice(first, first + step)
                if scale is None:
                    values[rows] = matrix[rows]
                else:
                    values[rows], scale[rows] = _to_whole(matrix[rows])
        unfit = ~np.isfinite(values).all(axis=1) if scale is None else ~(scale <= LARGEST_SCALE)
        if unfit.any():
            most = float(np.finfo(np.float16).max) if scale is None else MOST * LARGEST_SCALE
            raise DataError(
                f"{what}: {int(unfit.sum()):,} of {len(matrix):,} items have a number that {precision} cannot hold; it "
                f"reaches {most:g}, and the largest is {np.abs(matrix).max(initial=0):g}; store it in fp32"
            )
        return cls(values, scale)

    @property
    def precision(self) -> Precision:
        """How its numbers are stored."""
        return next(name for name, dtype in DTYPES.items() if self.values.dtype == dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        rows, width = self.values.shape
        return rows, width

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Index) -> Floats:
        """Read some rows as float32: (P, d). A row beyond the ends is the first or the last."""
        if self.values.dtype == np.float32:  # as for most requests
            vectors: Floats = self.values.take(rows, axis=0, mode="clip")
            return vectors
        return self.select(rows).decode()

    def decode(self) -> Floats:
        """Read all rows as float32, those of fp32 without a copy: (N, d)."""
        if self.values.dtype == np.float16:
            return widen(self.values)
        vectors: Floats = self.values.astype(np.float32, copy=False)
        if self.scale is not None:
            vectors *= self.scale[:, None]
        return vectors

    def part(self, rows: slice) -> Self:
        """Select consecutive rows, as they are stored, without a copy."""
        return type(self)(self.values[rows], None if self.scale is None else self.scale[rows])

    def select(self, rows: Index) -> Self:
        """Select rows, as they are stored. A row beyond the ends is the first or the last."""
        scale = None if self.scale is None else self.scale.take(rows, mode="clip")
        return type(self)(self.values.take(rows, axis=0, mode="clip"), scale)

    def concat(self, other: Self) -> Self:
        """Append the rows of a matrix of the same width and precision."""
        assert (self.scale is None) == (other.scale is None) and self.values.dtype == other.values.dtype
        if self.scale is None or other.scale is None:
            return type(self)(np.concatenate((self.values, other.values)))
        return type(self)(
            np.concatenate((self.values, other.values)), np.concatenate((self.scale, other.scale))
        )


def _to_whole(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """The whole numbers of rows, and their scales."""
    scale = flush_subnormals(np.abs(matrix).max(axis=1, initial=0).astype(np.float32) / np.float32(MOST))
    divisor = np.where(scale > 0, scale, np.float32(1))
    whole = np.rint(matrix / divisor[:, None])
    return np.where(scale[:, None] > 0, whole, 0).astype(np.int8), scale


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
