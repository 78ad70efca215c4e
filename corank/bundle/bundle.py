"""The bundle: the files that are shipped. Its manifest names one content folder, and size and checksum of every part.

    BUNDLE/manifest.json                     the pointer: written last, switched in one rename
    BUNDLE/<model_version>-<items_seq>/      encoders/  tables/  items/  and a stage's graphs:
                                            <stage>.query.onnx and <stage>.item.onnx, or <stage>.onnx; priors/

A reader sees the old content or the new, never half. A content stays as long as a `Bundle` of it is open, and the
content before the newest in any case. `bundle_writer.py` writes.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from corank.bundle.manifest import BundleManifest, Part, load_manifest
from corank.bundle.signatures import TrustedKeys
from corank.core.errors import BundleError
from corank.core.locks import FolderLease

CHUNK = 1 << 22
"""Bytes of a file read at once."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose parts have been verified.

    Example:
        bundle = Bundle.open(Path("bundle"))
        bundle.manifest.model_version
    """

    folder: Path
    """The content that the manifest names."""
    manifest: BundleManifest
    lease: FolderLease | None = field(default=None, repr=False, compare=False)
    """Keeps the content from being removed; None where there is nothing to keep."""

    @classmethod
    def open(cls, path: Path, verified: bool = False, trust: TrustedKeys | None = None) -> Self:
        """Open a bundle.

        Args:
            path: its folder.
            verified: whether the parts have been verified just now; they are not read then.
            trust: keys, one of which must have signed it; None if it need not be signed.

        Raises:
            BundleError: the manifest or a part is absent, truncated or altered.
            TrustError: no trusted key signed it.
        """
        while True:
            manifest = load_manifest(path, trust)
            try:
                return cls._open(path / manifest.content, manifest, verified)
            except BundleError:
                # it may have been replaced twice since its manifest was read, and the content removed
                if current_content(path) in (manifest.content, None):
                    raise

    @classmethod
    def _open(cls, folder: Path, manifest: BundleManifest, verified: bool) -> Self:
        lease = None
        with suppress(OSError):  # a missing folder is told by its first part
            lease = FolderLease(folder)
        for name, part in () if verified and lease else manifest.parts.items():
            _verify(folder / name, part, manifest.model_version)
        return cls(folder, manifest, lease)


def _verify(path: Path, part: Part, model_version: str) -> None:
    """Raise BundleError unless a part has the size and the checksum of the manifest."""
    try:
        size = path.stat().st_size
        if size == part.bytes and sha256(path) == part.sha256:
            return
    except OSError as error:
        raise BundleError(f"{path}: missing from the bundle ({error.strerror}); export it again") from None
    found = f"{size} bytes in place of {part.bytes}" if size != part.bytes else "its checksum differs"
    raise BundleError(
        f"{path}: damaged, or a part of another model version than {model_version} ({found}); export the bundle again"
    )


def sha256(path: Path) -> str:
    """Compute the checksum of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def current_content(path: Path) -> str | None:
    """Return the name of a bundle's content, None if there is no sound bundle."""
    try:
        return load_manifest(path).content
    except (BundleError, ValidationError):
        return None


def next_items_seq(path: Path, model_version: str) -> int:
    """Return the `items_seq` to write next: 1 for a new model version, otherwise one more than the bundle has."""
    try:
        held = load_manifest(path)
    except BundleError:
        return 1
    return held.items_seq + 1 if held.model_version == model_version else 1
