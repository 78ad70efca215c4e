"""Where a file or folder lies: a path of this machine, or a URL of an object store.

Requests to an object store, by obstore: whole objects of a folder, with errors that say what to do.

Credentials, endpoint and region come from the environment as the vendors' own tools read it (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …). None of them gets into a message or a
file.

Objects by a glob: `s3://BUCKET/log/*.parquet`.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

from corank.core.errors import BusyError, MissingObjectError, StorageError
from corank.core.formatting import shorten
from corank.core.lazy import require

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
LONGEST_PATH = 3_000
"""Bytes of a path, at most: of the 4,096 that Linux takes, some are left to the folder that it begins in."""
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

    Raises StorageError for any other URL, for an empty text and names that no file system takes, and for the URL of an
    object store that was made a `Path`, which drops a slash.

    Example:
        >>> parse_location("runs/shop")
        PosixPath('runs/shop')
    """
    if isinstance(given, ObjectUrl):
        return given
    text = str(given)
    if not text:
        raise StorageError("a path is empty; name a file or a folder, such as . for the working directory")
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
    text = os.fsencode(path)
    if (
        b"\0" in text
        or len(text) > LONGEST_PATH
        or any(len(name) > LONGEST_NAME for name in text.split(b"/"))
    ):
        raise StorageError(
            f"{shorten(str(path), 300)}: no path: a name has more than {LONGEST_NAME} bytes, all more than "
            f"{LONGEST_PATH:,}, or one a NUL"
        )
    return path


def _hide(text: str) -> str:
    """Leave the user name and the password of a URL out of a message."""
    return shorten(re.sub(r"^([^:/]+://)[^/]*@", r"\1…@", text, flags=re.DOTALL), 300)


RETRIES = 5
"""How often a request is sent again after an error of the server or the network."""
SECONDS = 60
"""From the first attempt of a request after which it is not sent again, and without a byte until it is given up."""
CHUNK = 1 << 22
"""Bytes of an object that are received at once, about."""
MOST_UPLOAD_PARTS = 9_000
"""S3 takes 10,000 parts an object."""
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")


@dataclass(frozen=True)
class Revision:
    """What changes when an object does: S3 and Azure compare its etag, Google its version number."""

    etag: str | None
    version: str | None

    @classmethod
    def of(cls, found: Any) -> Self:
        """Read the revision that obstore reports of an object."""
        return cls(found["e_tag"], found["version"])

    def as_mode(self) -> dict[str, str]:
        """Return the condition of a write, as obstore takes it."""
        condition = {"e_tag": self.etag, "version": self.version}
        return {key: value for key, value in condition.items() if value is not None}


@dataclass(frozen=True)
class StoredObject:
    """What a store reports of an object."""

    name: str
    """Within the folder."""
    size: int
    """Bytes"""
    revision: Revision


class ObjectFolder:
    """The objects below a URL. Threads may share it; each request is sent again a bounded number of times.

    Every method raises StorageError, which names the URL; MissingObjectError where there is no such object.

    Example:
        ObjectFolder(ObjectUrl.parse("s3://shop/bundle")).read("manifest.json", most=1 << 20)
    """

    def __init__(self, url: ObjectUrl) -> None:
        """
        Args:
            url: of the folder. Nothing is sent yet.

        Raises StorageError if obstore is not installed.
        """
        self.url = url
        self._obstore = _import_obstore(url)

    @cached_property
    def _store(self) -> Any:
        client = {
            "allow_http": endpoint_is_plain(),
            "connect_timeout": "10s",
            "read_timeout": f"{SECONDS}s",
            "timeout": "1h",  # of a whole object: `read_timeout` ends what has stalled
        }
        retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=SECONDS)}
        with self._errors(""):
            return self._obstore.store.from_url(str(self.url), client_options=client, retry_config=retry)

    def list(self) -> Iterator[StoredObject]:
        """List all objects below the folder, at any depth; none if there is no such folder."""
        with self._errors(""):
            for batch in self._obstore.list(self._store):
                for entry in batch:
                    yield StoredObject(entry["path"], entry["size"], Revision.of(entry))

    def describe(self, name: str) -> StoredObject:
        """Return size and revision of an object."""
        with self._errors(name):
            entry = self._obstore.head(self._store, name)
        return StoredObject(name, entry["size"], Revision.of(entry))

    def read(self, name: str, most: int) -> tuple[bytes, Revision]:
        """Read an object of at most `most` bytes. Returns its bytes and its revision."""
        with self._errors(name):
            answer = self._obstore.get(self._store, name)
            if answer.meta["size"] > most:
                raise StorageError(
                    f"{self.url}/{name}: {answer.meta['size']:,} bytes; at most {most:,} are read"
                )
            return bytes(answer.bytes()), Revision.of(answer.meta)

    def download(self, name: str, file: BinaryIO, most: int) -> str:
        """Write the first `most` bytes of an object, and one more if there is one, to a file. Returns their SHA-256."""
        digest, left = hashlib.sha256(), most + 1
        with self._errors(name):
            for chunk in self._obstore.get(self._store, name).stream(min_chunk_size=CHUNK):
                part = memoryview(chunk)[:left]
                digest.update(part)
                file.write(part)
                left -= len(part)
                if not left:
                    break
        return digest.hexdigest()

    def upload(self, name: str, path: Path) -> None:
        """Write a file as an object, whole or not at all."""
        chunk = max(1 << 23, -(-path.stat().st_size // MOST_UPLOAD_PARTS))
        with self._errors(name):
            self._obstore.put(self._store, name, path, chunk_size=chunk)

    def swap(self, name: str, content: bytes, before: Revision | None) -> Revision:
        """Write an object if it has not changed.

        Args:
            name: of the object.
            content: what to write.
            before: the revision that it must have; None if it must not exist.

        Returns its new revision. Raises BusyError if another writer was quicker; nothing is written then.
        """
        mode = "create" if before is None else before.as_mode()
        changed = self._obstore.exceptions.AlreadyExistsError, self._obstore.exceptions.PreconditionError
        with self._errors(name):
            try:
                put = self._obstore.put(self._store, name, content, mode=mode)
            except changed:
                raise BusyError(
                    f"{self.url}: another process has published there meanwhile; nothing was replaced; "
                    "run the command again if its result is to take the place of the other's"
                ) from None
        return Revision.of(put)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; one that is absent is none to delete."""
        if names:
            with self._errors(""):
                self._obstore.delete(self._store, list(names))

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Raise StorageError, without what the store answered in full: its text may hold keys and signatures."""
        shown = f"{self.url}/{name}" if name else str(self.url)
        try:
            yield
        except FileNotFoundError as error:
            if "<Code>NoSuchBucket" in str(error):
                raise StorageError(f"{shown}: {_explain(str(error), self.url)}") from None
            raise MissingObjectError(f"{shown}: no such object; check the URL") from None
        except (self._obstore.exceptions.BaseError, ValueError) as error:
            raise StorageError(f"{shown}: {_explain(str(error), self.url)}") from None


def _import_obstore(url: ObjectUrl) -> Any:
    obstore: Any = require("obstore", f"{url}: object storage")
    for part in ("exceptions", "store"):
        require(f"obstore.{part}")
    return obstore


def endpoint_is_plain() -> bool:
    """Whether the environment names an endpoint without TLS, as for a store on the local network."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
    return any(os.environ.get(name, "").startswith("http://") for name in names)


def _explain(message: str, url: ObjectUrl) -> str:
    """Say in one line what a store refused, and what to do."""
    status, code = _STATUS.search(message), _CODE.search(message)
    said = f"{status[1] if status else ''} {code[1] if code else ''}".strip()
    if code and code[1] == "NoSuchBucket":
        return f"there is no bucket {url.root}; make it, or check the URL and the endpoint"
    if status and status[1] in ("401", "403"):
        return (
            f"refused ({said}); check the credentials of the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY or those of your store) and what they may do there"
        )
    if re.search(r"169\.254\.169\.254|metadata|Missing \w*AccessKey", message):
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or those of your store"
    if status:
        return f"the store answered {said}, after {RETRIES} attempts if it may be transient; try again later"
    if "HTTP error" in message or "timed out" in message or "timeout" in message:
        return (
            f"the store cannot be reached, or did not answer within {SECONDS} s; check the network and the "
            "endpoint (AWS_ENDPOINT_URL or that of your store)"
        )
    return message.partition("\n")[0][:300]


def find_objects(url: ObjectUrl) -> list[tuple[ObjectUrl, StoredObject]]:
    """Find the objects of a URL, whose key may be a glob: `*` and `[…]` within a segment, `**` across segments.

    Returns them by key, ascending. Raises StorageError; MissingObjectError if there is none.

    Example:
        find_objects(ObjectUrl.parse("s3://shop/log/*.parquet"))
    """
    fixed = _fixed_part(url.key)
    if fixed == url.key:
        return [(url, _describe(url))]
    folder = ObjectFolder(ObjectUrl(url.scheme, url.bucket, fixed))
    begin = f"{fixed}/" if fixed else ""
    translate: Any = require("fsspec.utils", f"{url}: a glob").glob_translate
    pattern = re.compile(translate(url.key.removeprefix(begin)))
    objects = [
        (ObjectUrl(url.scheme, url.bucket, begin + entry.name), entry)
        for entry in folder.list()
        if pattern.fullmatch(entry.name)
    ]
    if not objects:
        raise MissingObjectError(f"{url}: no such object; check the URL")
    return sorted(objects, key=lambda pair: pair[0].key)


def _fixed_part(key: str) -> str:
    """The leading segments of a key that hold no `*` and no `[`."""
    segments = key.split("/")
    first = next((n for n, segment in enumerate(segments) if "*" in segment or "[" in segment), len(segments))
    return "/".join(segments[:first])


def _describe(url: ObjectUrl) -> StoredObject:
    """Return size and etag of an object. Raises MissingObjectError, which says whether it is a folder."""
    folder, name = url.split()
    try:
        return ObjectFolder(folder).describe(name)
    except MissingObjectError:
        if next(ObjectFolder(url).list(), None) is not None:
            raise MissingObjectError(f"{url}: is a folder; write {url}/*.parquet") from None
        raise
