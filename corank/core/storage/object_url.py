"""Where a file or folder lies: a path of this machine, or a URL of an object store."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.core.errors import StorageError
from corank.core.formatting import shorten

SCHEMES = {
    "s3": "Amazon S3 and what speaks its protocol",
    "gs": "Google Cloud Storage",
    "az": "Azure Blob Storage",
}
"""Scheme of a URL → the object store."""
LONGEST_KEY = 1024
"""Bytes of the name of an object, at most."""
LONGEST_NAME = 200
"""Bytes of a folder's or file's name, at most: file systems take 255, and a temporary name is longer."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_COLLAPSED = re.compile(r"(s3|gs|az|file):/+(?=[^/])")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/\\?#\x00-\x1f\x7f\ud800-\udfff]+")


@dataclass(frozen=True)
class ObjectUrl:
    """A file or folder in an object store: `s3://BUCKET/KEY`, `gs://BUCKET/KEY` or `az://CONTAINER/KEY`.

    Example:
        >>> str(ObjectUrl.parse("s3://shop/runs/") / "may" / "report.html")
        's3://shop/runs/may/report.html'
    """

    scheme: str
    bucket: str
    key: str
    """Without `/` at its ends."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL. Raises StorageError, which repeats no user name and no password."""
        match = _URL.fullmatch(text)
        if match is None or match[1] not in SCHEMES:
            forms = ", ".join(f"{scheme}://BUCKET/KEY" for scheme in SCHEMES)
            raise StorageError(f"{_hide(text)}: expected {forms}, or a path of this machine")
        bucket, _, key = match[2].partition("/")
        if "@" in bucket:
            raise StorageError(
                f"{_hide(text)}: a URL holds no credentials; give them by the environment, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if _BUCKET.fullmatch(bucket) is None:
            raise StorageError(f"{_hide(text)}: {shorten(bucket)!r} is no name of a bucket")
        key = key.removesuffix("/")
        if not all(map(_SEGMENT.fullmatch, key.split("/"))) or len(key.encode()) > LONGEST_KEY:
            raise StorageError(
                f"{_hide(text)}: expected a file or folder within the bucket, named without empty segments, "
                f"'.', '..', '?', '#' and control characters, in at most {LONGEST_KEY:,} bytes"
            )
        return cls(match[1], bucket, key)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> Self:
        """Append a relative name. Raises StorageError if it leads elsewhere."""
        return self.parse(f"{self}/{name}")

    def split(self) -> tuple[Self, str]:
        """Return the folder, which may be the whole bucket, and the name within it."""
        folder, _, name = self.key.rpartition("/")
        return type(self)(self.scheme, self.bucket, folder), name

    @property
    def root(self) -> str:
        """The bucket's URL."""
        return f"{self.scheme}://{self.bucket}"


Location = Path | ObjectUrl
"""Where a file or folder lies."""
PathOrUrl = Path | str
"""How a user names a location: a path of this machine, or the text of one or of a URL."""


def is_url(text: str) -> bool:
    """Whether a text is a URL with `://`, whatever its scheme."""
    return _URL.fullmatch(text) is not None


def is_object_url(text: str) -> bool:
    """Whether a text is a URL of an object store.

    Example:
        >>> is_object_url("s3://shop/log/*.parquet"), is_object_url("https://shop/log.csv")
        (True, False)
    """
    match = _URL.fullmatch(text)
    return match is not None and match[1] in SCHEMES


def parse_location(given: PathOrUrl | ObjectUrl) -> Location:
    """Read a path of this machine, a `file://` URL or the URL of an object store.

    Raises StorageError for any other URL, for names that no file system takes, and for the URL of an object store that
    was made a `Path`, which drops a slash.

    Example:
        >>> parse_location("runs/shop")
        PosixPath('runs/shop')
    """
    if isinstance(given, ObjectUrl):
        return given
    text = str(given)
    if isinstance(given, Path):
        if _COLLAPSED.match(text):
            raise StorageError(f"{text}: a URL was made a Path, which drops a slash; give it as text")
        return _check_names(given)
    if text.startswith("file://"):
        path = Path(text.removeprefix("file://"))
        if not path.is_absolute():
            raise StorageError(f"{text}: expected file:///PATH, from the root of this machine")
        return _check_names(path)
    return ObjectUrl.parse(text) if is_url(text) else _check_names(Path(text))


def require_local(given: PathOrUrl) -> Path:
    """Read a path that must be of this machine. Raises StorageError, which says so, for a URL.

    Example:
        >>> require_local("keys/a.pem")
        PosixPath('keys/a.pem')
    """
    location = parse_location(given)
    if isinstance(location, ObjectUrl):
        raise StorageError(f"{location}: no URL can be given here; give a path of this machine")
    return location


def _check_names(path: Path) -> Path:
    """Return a path that a file system can have. Raises StorageError."""
    if "\0" in str(path) or any(len(os.fsencode(name)) > LONGEST_NAME for name in path.parts):
        raise StorageError(
            f"{shorten(str(path), 300)}: no path: a name has more than {LONGEST_NAME} bytes, or a NUL"
        )
    return path


def _hide(text: str) -> str:
    """Leave the user name and the password of a URL out of a message."""
    return shorten(re.sub(r"^([^:/]+://)[^/]*@", r"\1…@", text, flags=re.DOTALL), 300)
