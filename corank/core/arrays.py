"""Arrays (npy) and tables (Arrow) on disk, memory-mapped when read.

They are files of folders: `atomic_folder` forces them to disk when the folder is complete.
"""

import math
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from corank.core.errors import DataError
from corank.core.files import open_regular_file
from corank.core.ragged import Ragged, Rows, Vectors
from corank.core.types import Ints

Append = Callable[[NDArray[Any]], None]

PIECE_BYTES = 1 << 24
"""Bytes of a tensor in memory at once where it is read piece by piece."""
UNMAPPED_BYTES = 1 << 24
"""Bytes that `unmap_pages` takes at once, in about a third of a millisecond."""
_LONGEST_HEADER = 512
"""Bytes of the header of an npy file, at most: shapes are short, and no type has fields."""
_HEADER = re.compile(
    rb"(?P<magic>\x93NUMPY\x01\x00(?P<length>..))"
    rb"\{'descr': '(?P<type>\|[biu]1|<[iuf][248])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|\d{1,18},|\d{1,18}(, \d{1,18})+)\), \} *\n",
    re.DOTALL,
)
"""The header of an npy file as numpy writes it: a pattern, since numpy itself reads it by Python's parser."""


@contextmanager
def append_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Append]:
    """Write an npy file part by part. The block gets a function that appends a part; all parts must make up `shape`.

    This is used in place of `np.save`, whose error on a full disk has no errno, and of a memory map, where a write to a
    full disk is a SIGBUS.
    """
    kind = np.dtype(dtype)
    with path.open("wb") as file:
        npy.write_array_header_1_0(
            file, {"shape": shape, "fortran_order": False, "descr": npy.dtype_to_descr(kind)}
        )

        def append(part: NDArray[Any]) -> None:
            file.write(np.ascontiguousarray(part, dtype=kind).reshape(-1).view(np.uint8).data)

        yield append


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an npy file."""
    with append_array(path, array.shape, array.dtype) as append:
        append(array)


def read_array(
    path: Path, dtype: DTypeLike | None = None, shape: tuple[int | None, ...] | None = None
) -> NDArray[Any]:
    """Memory-map an npy file, read-only.

    Only what `write_array` writes is read: no objects, no records, and a size that the header states.

    Args:
        path: the file.
        dtype: the type that it must have; any if None.
        shape: the shape that it must have, None for a dimension of any size; any if None.

    Raises:
        DataError: the file is missing, damaged, or of another type or shape.
    """
    try:
        with open_regular_file(path.parent, path.name) as file:
            array = _map_array(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise DataError(f"{path}: expected {np.dtype(dtype)}; found {array.dtype}")
    if shape is not None and not _fits(array.shape, shape):
        expected = ", ".join("any" if size is None else f"{size:,}" for size in shape)
        raise DataError(f"{path}: expected the shape ({expected}); found {array.shape}")
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    same = (want is None or have == want for have, want in zip(shape, expected, strict=False))
    return len(shape) == len(expected) and all(same)


def _map_array(file: BinaryIO) -> NDArray[Any]:
    """Map the array of an open npy file. Raises OSError, ValueError."""
    start = file.read(_LONGEST_HEADER)
    header = _HEADER.match(start)
    if header is None:
        raise ValueError("its header is not one that `write_array` writes")
    length = int.from_bytes(header["length"], "little")
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    dtype, offset = np.dtype(header["type"].decode()), len(header["magic"]) + length
    size, expected = os.fstat(file.fileno()).st_size, offset + math.prod(shape) * dtype.itemsize
    if size != expected or header.end() != offset:
        raise ValueError(f"{size:,} bytes in place of the {expected:,} that its header tells")
    return np.asarray(np.memmap(file, dtype, "r", offset, shape))


def unmap_pages(array: NDArray[Any]) -> Iterator[None]:
    """Take a memory-mapped array out of memory, a piece a step of the iterator; what is read comes back.

    To free all of it at once keeps the interpreter's lock for about 20 ms a GB.
    """
    mapped: object = array
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap):
        for first in range(0, len(mapped), UNMAPPED_BYTES):
            mapped.madvise(mmap.MADV_DONTNEED, first, min(UNMAPPED_BYTES, len(mapped) - first))
            yield


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write an Arrow file."""
    table = frame.to_arrow()
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def map_table(path: Path) -> pa.Table:
    """Memory-map an Arrow file. Raises DataError if it is missing or damaged."""
    try:
        with open_regular_file(path.parent, path.name), pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)  # polars trusts offsets and lengths
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    return table


def read_frame(path: Path) -> pl.DataFrame:
    """Memory-map an Arrow file as a frame. Raises DataError if it is missing or damaged."""
    frame = pl.from_arrow(map_table(path))
    assert isinstance(frame, pl.DataFrame)
    return frame


def write_identifiers(folder: Path, name: str, ids: pl.Series) -> None:
    """Write whole numbers as `<name>.npy`, or texts as UTF-8, one after another, in `<name>.text.npy`.

    Text n lies between bytes n and n + 1 of `<name>.offsets.npy`.
    """
    if ids.dtype != pl.String:
        write_array(folder / f"{name}.npy", ids.to_numpy())
        return
    strings = ids.rechunk().to_arrow().cast(pa.large_string())
    _, offsets, text = strings.buffers()
    ends = (
        np.frombuffer(offsets, np.int64)[strings.offset :][: len(strings) + 1]
        if len(strings)
        else np.zeros(1, np.int64)
    )
    used = np.frombuffer(text, np.uint8)[ends[0] : ends[-1]] if ends[-1] else np.empty(0, np.uint8)
    write_array(folder / f"{name}.offsets.npy", ends - ends[0])
    write_array(folder / f"{name}.text.npy", used)


def read_identifiers(folder: Path, name: str) -> pl.Series:
    """Memory-map ids, whole numbers or text, that `write_identifiers` wrote.

    Raises DataError if a file is missing, damaged or of another form.
    """
    if not (folder / f"{name}.text.npy").exists():
        return pl.Series(name, read_array(folder / f"{name}.npy", np.int64, (None,)))
    offsets = read_array(folder / f"{name}.offsets.npy", np.int64, (None,))
    text = read_array(folder / f"{name}.text.npy", np.uint8, (None,))
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(text) or (np.diff(offsets) < 0).any():
        raise DataError(f"{folder / name}.offsets.npy: expected ascending offsets, from 0 to {len(text):,}")
    try:
        strings = pa.LargeStringArray.from_buffers(
            len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text)
        )
        strings.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{folder / name}.text.npy: damaged: {error}") from None
    return pl.Series(name, strings)


def write_ragged(folder: Path, n: int, lists: Ragged) -> None:
    """Write the n-th list feature of a folder, its values one after another."""
    ends = np.cumsum(lists.length, dtype=np.int64)
    write_array(folder / f"list{n}.start.npy", ends - lists.length)
    write_array(folder / f"list{n}.length.npy", lists.length)
    write_array(folder / f"list{n}.values.npy", lists.flat())


def write_shared(folder: Path, n: int, lists: Ragged) -> None:
    """Write the n-th list feature of a folder as it is: values that several rows share are written once."""
    write_views(folder, n, lists)
    write_array(folder / f"list{n}.values.npy", lists.values)


def write_rows(folder: Path, rows: Rows) -> None:
    """Write encoded rows into a folder, which is made."""
    write_arrays(folder, {"ids": rows.ids, "numbers": rows.numbers})
    for n, lists in enumerate(rows.lists):
        write_ragged(folder, n, lists)
    write_row_vectors(folder, rows.vectors)


def write_views(folder: Path, n: int, lists: Ragged) -> None:
    """Write the n-th list feature of a folder without its values, which are stored elsewhere."""
    write_array(folder / f"list{n}.start.npy", lists.start)
    write_array(folder / f"list{n}.length.npy", lists.length)


def read_ragged(
    folder: Path,
    n: int,
    values: Ints | None = None,
    dtype: DTypeLike = np.int32,
    count: int | None = None,
) -> Ragged:
    """Read the n-th list feature of a folder.

    Args:
        folder: where it is.
        n: its number.
        values: if they are stored elsewhere.
        dtype: the type of the values.
        count: how many lists there must be.

    Raises DataError if a file is missing, damaged or of another form.
    """
    start = read_array(folder / f"list{n}.start.npy", np.int64, (count,))
    length = read_array(folder / f"list{n}.length.npy", np.int32, (len(start),))
    elements = read_array(folder / f"list{n}.values.npy", dtype, (None,)) if values is None else values
    return Ragged(start, length, elements)


def write_row_vectors(folder: Path, vectors: Iterable[Vectors]) -> None:
    """Write vector features into a folder: of each the vectors that some row has, and which of them each row has."""
    for n, feature in enumerate(vectors):
        compact = feature.compact()
        write_array(folder / f"vector{n}.row.npy", compact.row)
        write_array(folder / f"vector{n}.values.npy", compact.values)


def read_row_vectors(folder: Path, count: int, rows: int | None = None) -> tuple[Vectors, ...]:
    """Map the vectors of `count` features of so many rows that `write_row_vectors` wrote. Raises DataError."""
    return tuple(
        Vectors(
            read_array(folder / f"vector{n}.row.npy", np.int32, (rows,)),
            read_array(folder / f"vector{n}.values.npy", np.float16, (None, None)),
        )
        for n in range(count)
    )


def read_rows(folder: Path, lists: Iterable[Ints | None], vectors: int) -> Rows:
    """Read the rows of a folder.

    Args:
        folder: where they are.
        lists: for each list feature the values stored elsewhere, or None.
        vectors: how many vector features there are.
    """
    views = tuple(read_ragged(folder, n, values) for n, values in enumerate(lists))
    ids, numbers = read_array(folder / "ids.npy"), read_array(folder / "numbers.npy")
    return Rows(ids, numbers, views, read_row_vectors(folder, vectors))


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write each array as `<name>.npy` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)
