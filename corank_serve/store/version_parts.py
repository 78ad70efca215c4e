"""A version in a store of bytes: its bundle as an artifact, whose manifest and files lie in a table, files in chunks.

    parts/VERSION    `manifest.json`; `NAME/CHUNK` of each file

The head names the version, with the hash of its manifest, once all is there. The items are kept as records, which
differ from the files that they are made of (record_codec.py).
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from corank.bundle.bundle import Bundle
from corank.bundle.item_records import KEYS
from corank.bundle.manifest import BundleManifest, require_signature
from corank.bundle.signatures import TrustedKeys
from corank.core.artifact import CHUNK, File, parse_damaged, parse_manifest
from corank.core.errors import BundleError, StoreError
from corank.core.files import parse_json
from corank_serve.store.base import Store
from corank_serve.store.live_version import StoreState, VersionFacts

MANIFEST = b"manifest.json"
ITEM_KEYS = f"items/{KEYS}."
"""How the names of the parts of the items' ids begin."""


class DamagedError(StoreError):
    """A version is not in the store as it was written."""


def is_stored_part(part: str) -> bool:
    """Whether a part of a bundle is kept as a file; the rows and parts of items are kept as records."""
    return not part.startswith("items/") or part.startswith(ITEM_KEYS)


def encode_manifest(manifest: BundleManifest) -> bytes:
    """Return the bytes of a manifest in a store, without its signatures, which the head has."""
    return msgspec.json.encode(manifest.plain() | {"signatures": [], "places": {}})


def write_parts(bundle: Bundle, store: Store, version: str) -> None:
    """Write all parts of a bundle, as many chunks at once as `CHUNK` bytes hold, and its manifest last.

    Raises StoreError.
    """
    table = f"parts/{version}"
    waiting: list[tuple[bytes, bytes]] = []
    for key, chunk in _chunks(bundle):
        if waiting and sum(len(value) for _, value in waiting) + len(chunk) > CHUNK:
            store.put({table: waiting})
            waiting = []
        waiting.append((key, chunk))
    store.put({table: waiting})
    store.put({table: [(MANIFEST, encode_manifest(bundle.manifest))]})


def _chunks(bundle: Bundle) -> Iterator[tuple[bytes, bytes]]:
    """The key and the content of every chunk of the stored parts."""
    for part in filter(is_stored_part, bundle.manifest.files):
        with (bundle.folder / part).open("rb") as file:
            for n, chunk in enumerate(iter(lambda: file.read(CHUNK), b"")):
                yield f"{part}/{n}".encode(), chunk


def verify_parts(bundle: Bundle, store: Store, version: str) -> None:
    """Check that every part arrived as it is in the bundle. Raises DamagedError, StoreError."""
    for part in filter(is_stored_part, bundle.manifest.files):
        for _ in read_chunks(store, version, part, bundle.manifest.files[part]):
            pass
    if store.get(f"parts/{version}", [MANIFEST]) != [encode_manifest(bundle.manifest)]:
        raise _damaged(store, version, "the manifest")


def read_chunks(store: Store, version: str, part: str, file: File) -> Iterator[bytes]:
    """Read a part of a version, chunk by chunk.

    Raises DamagedError for a chunk of another length than the part's size tells, and at the end if the digest is wrong.
    """
    digest = hashlib.sha256()
    for first in range(0, file.bytes, CHUNK):
        (chunk,) = store.get(f"parts/{version}", [f"{part}/{first // CHUNK}".encode()])
        if chunk is None or len(chunk) != min(CHUNK, file.bytes - first):
            raise _damaged(store, version, part)
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != file.sha256:
        raise _damaged(store, version, part)


def read_stored_manifest(
    store: Store, version: str, trust: TrustedKeys | None = None
) -> tuple[BundleManifest, dict[str, Any]]:
    """Read the manifest of a version, with its signatures, and its JSON value, which they are of.

    Args:
        store: the store.
        version: its name.
        trust: keys, one of which must have signed it; None if it need not be signed.

    Raises StoreError if there is no such version, or its manifest cannot be read; DamagedError; TrustError.
    """
    _, state = StoreState.read(store)
    facts = state.require_version(store, version)
    (raw,) = store.get(f"parts/{version}", [MANIFEST])
    if raw is None or hashlib.sha256(raw).hexdigest() != facts.manifest:
        raise _damaged(store, version, "the manifest")
    source, signatures = f"{store.address}: {version}", [one.model_dump() for one in facts.signatures]
    verify = require_signature(trust, store.address)

    def inspect(plain: Any) -> None:
        if not isinstance(plain, dict) or plain.get("content") != version:
            raise StoreError(f"{source} has the manifest of another; publish it again")
        plain["signatures"] = signatures
        if verify is not None:
            verify(plain)

    try:
        manifest = parse_manifest(raw, BundleManifest, source, inspect, sealed=False)
    except BundleError as error:
        raise StoreError(f"{error}, and publish it") from None
    return manifest, parse_json(raw) | {"signatures": signatures, "places": {}}


def read_stored_digest(store: Store, version: str, facts: VersionFacts | None) -> str | None:
    """Read the digest of the manifest that a store has of a version; None if it has none, or it is not whole."""
    (raw,) = store.get(f"parts/{version}", [MANIFEST])
    if raw is None or (facts is not None and hashlib.sha256(raw).hexdigest() != facts.manifest):
        return None
    digest = parse_damaged(raw).get("digest")
    return digest if isinstance(digest, str) else None


def _damaged(store: Store, version: str, part: str) -> DamagedError:
    return DamagedError(f"{store.address}: {part} of {version} is not whole; publish it again")
