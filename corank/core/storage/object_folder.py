"""Requests to an object store, by obstore: whole objects of a folder, with errors that say what to do.

Credentials, endpoint and region come from the environment as the vendors' own tools read it (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …). None of them gets into a message or a
file.
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
from corank.core.extras import require
from corank.core.storage.object_url import ObjectUrl

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
        ObjectFolder(ObjectUrl.parse("s3://shop/bundle")).read("published.json", most=1 << 20)
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
    obstore: Any = require("objects", "obstore", f"{url}: object storage")
    for part in ("exceptions", "store"):
        require("objects", f"obstore.{part}")
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
