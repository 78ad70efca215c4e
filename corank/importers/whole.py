"""What an importer writes is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corank.errors import DataError


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A sibling of `out` to write to, renamed to `out` at the end, removed if anything fails.

    Raises DataError, before anything is written, if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not an empty folder; name another, or remove it")
    unfinished = out.parent / f".{out.name}.{os.getpid()}"
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
