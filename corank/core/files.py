"""Files on disk: atomic writes; arrays (npy) and tables (Arrow), flushed when written and memory-mapped when read."""

import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from corank.core.errors import CorankError, DataError
from corank.core.ragged import Ragged, Rows
from corank.core.types import Ints

PARTIAL = ".partial-"
"""How the name of a file or folder begins that is not written to the end."""

Append = Callable[[NDArray[Any]], None]


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and force it to disk. Not atomic: for files of a folder that is written by `atomic_folder`."""
    with path.open("wb") as file:
        file.write(content)
        _flush(file)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file so that readers find the old one or the new one, never a part.

    The block gets a path beside `path` to write to. When it ends, that file is forced to disk and renamed to `path`.
    When it fails, the file is removed and `path` is left as it was. What a killed process left is removed first.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: the file cannot be written.

    Example:
        with atomic_file(path) as partial:
            frame.write_parquet(partial)
    """
    with _partial(path, Path.touch) as partial:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Write a folder so that readers find the old one or the new one, never a part. See `atomic_file`.

    Args:
        path: the folder; its parents are made.
        replace: whether a folder that is not empty may be replaced.

    Raises:
        DataError: `path` is a file, or a folder that is not empty and `replace` is not set; nothing is written then.
        OSError: the folder cannot be written.
    """
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: exists and is not an empty folder; name another, or remove it")
    with _partial(path, Path.mkdir) as partial:
        yield partial
        for part in partial.rglob("*"):
            sync(part)
        sync(partial)
        old = _partial_name(path)
        if path.exists():
            path.rename(old)
        partial.rename(path)
        sync(path.parent)
        _remove(old)


@contextmanager
def _partial(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or folder beside `path`, locked; remove it at the end if it is still there.

    Those that nobody has locked are what killed processes left: they are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{PARTIAL}{glob.escape(path.name)}-*"):
        with suppress(OSError), _locked(left):
            _remove(left)
    partial = _partial_name(path)
    make(partial)
    try:
        with _locked(partial):
            yield partial
    finally:
        _remove(partial)


def _partial_name(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}-{os.urandom(4).hex()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder. Raises BlockingIOError if another process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made. Raises CorankError if it cannot be written."""
    try:
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CorankError(f"{path}: cannot be written: {error}; name another place with --out") from None


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
        _flush(file)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an npy file and force it to disk."""
    with append_array(path, array.shape, array.dtype) as append:
        append(array)


def read_array(path: Path) -> NDArray[Any]:
    """Memory-map an npy file, read-only. Raises DataError if it is missing or truncated."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged: {error}") from None


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write an Arrow file and force it to disk."""
    table = frame.to_arrow()
    with path.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        _flush(file)


def read_frame(path: Path) -> pl.DataFrame:
    """Memory-map an Arrow file."""
    with pa.memory_map(str(path)) as source:
        frame = pl.from_arrow(pa.ipc.open_file(source).read_all())
    assert isinstance(frame, pl.DataFrame)
    return frame


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


def write_views(folder: Path, n: int, lists: Ragged) -> None:
    """Write the n-th list feature of a folder without its values, which are stored elsewhere."""
    write_array(folder / f"list{n}.start.npy", lists.start)
    write_array(folder / f"list{n}.length.npy", lists.length)


def read_ragged(folder: Path, n: int, values: Ints | None = None) -> Ragged:
    """Read the n-th list feature of a folder; `values` if they are stored elsewhere."""
    start, length = read_array(folder / f"list{n}.start.npy"), read_array(folder / f"list{n}.length.npy")
    return Ragged(start, length, read_array(folder / f"list{n}.values.npy") if values is None else values)


def read_rows(folder: Path, lists: Iterable[Ints | None]) -> Rows:
    """Read the rows of a folder; `lists` holds for each list feature the values stored elsewhere, or None."""
    views = tuple(read_ragged(folder, n, values) for n, values in enumerate(lists))
    return Rows(read_array(folder / "ids.npy"), read_array(folder / "numbers.npy"), views)


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write each array as `<name>.npy` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)
