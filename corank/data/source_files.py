"""The files of a user's table: paths, globs and URLs of the config."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from corank.core.errors import DataError
from corank.core.formatting import shorten
from corank.core.storage.object_glob import find_objects
from corank.core.storage.object_url import ObjectUrl, is_object_url, is_url


@dataclass(frozen=True)
class SourceFile:
    """A file of a table."""

    path: str
    """Absolute, or a URL."""
    version: tuple[int, int | str] | None
    """Bytes, and the time of change in ns or an object's etag; None if it is not known."""


def find_source_files(source: str | list[str], base: Path) -> list[SourceFile]:
    """List the files of a table. Globs of paths and of object stores are expanded; other URLs stay as they are.

    Args:
        source: paths, relative to `base`, or URLs.
        base: a folder.

    Raises DataError, StorageError if a file does not exist.
    """
    files: list[SourceFile] = []
    for part in [source] if isinstance(source, str) else source:
        if is_object_url(part):
            objects = find_objects(ObjectUrl.parse(part))
            files += [
                SourceFile(str(url), (entry.size, entry.revision.etag or entry.revision.version or ""))
                for url, entry in objects
            ]
        elif is_url(part):
            files.append(SourceFile(part, None))
        else:
            files += map(_describe, _expand(part, base))
    return files


def _describe(path: Path) -> SourceFile:
    stat = path.stat()
    return SourceFile(str(path), (stat.st_size, stat.st_mtime_ns))


def _expand(part: str, base: Path) -> list[Path]:
    """List the files of a path or a glob. Raises DataError if there is none."""
    path = base.absolute() / part
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    try:
        with closing(matches):  # an error leaves a folder open otherwise
            here = [path] if path.is_file() else sorted(match for match in matches if match.is_file())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{shorten(str(path), 300)}: cannot be read: {reason}") from None
    if not here:
        hint = f"it is a folder; write {part.rstrip('/')}/*.parquet" if path.is_dir() else "check the path"
        raise DataError(f"{path}: no such file ({hint})")
    return here
