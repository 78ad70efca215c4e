"""Which version of a store was live last, kept with the bundles of a cache.

A service that starts while its store is away serves that version.
"""

import hashlib
from pathlib import Path

import msgspec

from corank.bundle.bundle import Bundle
from corank.bundle.checks.content_name import is_content_name
from corank.core.errors import BundleError
from corank.core.files import atomic_file
from corank.serving.store.base import hide_password


class LastLive(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A note of a cache."""

    store: str
    """Address of the store, without password."""
    version: str
    """Name of the version that was served last."""


def write_last_live(cache: Path, url: str, version: str) -> None:
    """Note which version of a store is served. Raises BundleError if the cache cannot be written."""
    note = LastLive(_identity(url), version)
    path = _note_path(cache, url)
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(msgspec.json.encode(note))
    except OSError as error:
        raise BundleError(f"{path}: which version is live cannot be noted there: {error}") from None


def open_last_live(cache: Path, url: str) -> Bundle | None:
    """Open and verify the bundle of a store that was served last; None if the cache does not have it whole."""
    try:
        note = msgspec.json.decode(_note_path(cache, url).read_bytes(), type=LastLive)
        if note.store != _identity(url) or not is_content_name(note.version):
            return None
        bundle = Bundle.open(cache / note.version)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, BundleError):
        return None
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"content": note.version}))


def _identity(url: str) -> str:
    """What tells a store from others: its address without password, with an absolute path if it is a folder."""
    if "://" in url:
        return hide_password(url)
    scheme, _, rest = url.partition(":")
    return f"{scheme}:{Path(rest.partition('?')[0]).absolute()}"


def _note_path(cache: Path, url: str) -> Path:
    return cache / f"live-{hashlib.sha256(_identity(url).encode()).hexdigest()[:16]}.json"
