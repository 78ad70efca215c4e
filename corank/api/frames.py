"""Tables in memory instead of files: polars, pandas, Arrow, or anything else that exports Arrow streams.

A frame is written as Parquet, named by its content: one code path reads frames and files, and later commands find it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import polars as pl

from corank.core.errors import CorankError, DataError
from corank.core.files import sync


@runtime_checkable
class ArrowStream(Protocol):
    """What exports an Arrow stream: a frame of polars or pandas, a table of pyarrow, a relation of DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


Frame = ArrowStream | pl.LazyFrame
"""A table in memory, or one that polars computes when it is needed."""
TableSource = str | Path | list[str] | Frame
"""A table: files, globs or URLs, or a frame in memory."""


def is_frame(source: object) -> bool:
    """Whether a table is given as a frame, and not as files.

    Example:
        >>> is_frame(pl.DataFrame({"item_id": [1]})), is_frame("items.parquet")
        (True, False)
    """
    return isinstance(source, pl.LazyFrame | ArrowStream)


@dataclass
class FrameFiles:
    """Writes frames into a folder, and names the frame in errors about its file."""

    folder: Path
    names: dict[str, str] = field(default_factory=dict)
    """File → the table that was given."""

    def write(self, name: str, frame: Frame) -> str:
        """Write a frame as `NAME-CONTENT.parquet`, unless it is there.

        Args:
            name: what was given, such as `log` or `events.clicks`.
            frame: the table.

        Returns the file's path. Raises DataError if it is no table, or cannot be written.
        """
        table = _read(name, frame)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(prefix=f".{name}-", dir=self.folder) as file:
                table.write_parquet(file.name)
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
                path = self.folder / f"{name}-{digest}.parquet"
                if not path.exists():  # rewriting it would outdate packed data
                    sync(Path(file.name))
                    with suppress(FileExistsError):  # another rank was faster
                        os.link(file.name, path)
                    sync(self.folder)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"the frame given as {name}: cannot be written as Parquet: {error}") from None
        self.names[str(path.absolute())] = name
        return str(path.absolute())

    def source(self, name: str, source: TableSource | None) -> Any:
        """A table as the files that it lies in: a frame is written, files stay as they are."""
        if isinstance(source, pl.LazyFrame | ArrowStream):
            return self.write(name, source)
        if isinstance(source, Path):
            return str(source)
        several = isinstance(source, list) and all(isinstance(part, str) for part in source)
        if source is None or isinstance(source, str) or several:
            return source
        raise _no_table(name, source)

    def sources(self, tables: Mapping[str, TableSource] | None) -> dict[str, Any]:
        """Tables of events as files, by name."""
        return {name: self.source(f"events.{name}", table) for name, table in (tables or {}).items()}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors of the block name `the frame given as log` instead of the key and the file."""
        try:
            yield
        except CorankError as error:
            text = str(error)
            for path, name in self.names.items():
                replacement = f"the frame given as {name}"
                text = text.replace(f"data.{name}: {path}", replacement).replace(path, replacement)
                text = text.replace(f"data.{name}: ", f"{replacement}: ")
            if text == str(error):
                raise
            error.args = (text, *error.args[1:])
            raise


@contextmanager
def temporary_frames(beside: Path | None = None) -> Iterator[FrameFiles]:
    """A temporary folder for the frames of one command.

    Args:
        beside: where to create the folder, such as where all workers of a cluster can read.
    """
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".tables.", dir=beside) as folder:
        files = FrameFiles(Path(folder) / "tables")
        with files.named():
            yield files


def _read(name: str, frame: Frame) -> pl.DataFrame:
    """A frame as one of polars, in one piece, so that its bytes do not depend on how it was built."""
    try:
        if isinstance(frame, pl.LazyFrame):
            frame = frame.collect(engine="streaming")
        if type(frame).__module__.partition(".")[0] == "pandas":
            frame = pl.from_pandas(frame)
        table = frame if isinstance(frame, pl.DataFrame) else pl.from_arrow(frame)
        if isinstance(table, pl.DataFrame):
            return table.rechunk()
    except Exception as error:  # of whichever library made it
        reason = str(error).partition("\n")[0]
        raise DataError(f"the frame given as {name}: cannot be read: {reason}") from None
    raise _no_table(name, frame)


def _no_table(name: str, source: object) -> DataError:
    return DataError(
        f"{name}: expected files (a path, a glob, a URL, or a list of them) or a frame of polars, pandas or Arrow; "
        f"received {type(source).__name__}"
    )
