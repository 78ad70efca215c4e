"""The bundle: the files that are shipped. Its manifest names one content folder, and size and checksum of every part.

    BUNDLE/manifest.json                     the pointer: written last, switched in one rename
    BUNDLE/<model_version>-<items_seq>/      encoders/  tables/  items/  and a stage's graphs:
                                            <stage>.value.onnx, <stage>.item.onnx, <stage>.query.onnx; priors/

A reader sees the old content or the new, never half. A content stays as long as a `Bundle` of it is open, and the
content before the newest in any case. `bundle_writer.py` writes.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self

from corank.bundle.manifest import BUNDLE, MOST_PARTS, BundleManifest, Part, load_manifest
from corank.bundle.proofs import Proofs, prove
from corank.bundle.signatures import TrustedKeys
from corank.core.errors import BundleError
from corank.core.files import list_files, open_regular_file
from corank.core.local_copy import read_folder
from corank.core.locks import FolderLease
from corank.core.objects import Location

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
    leases: tuple[FolderLease, ...] = field(default=(), repr=False, compare=False)
    """Keep the content, and a copy of what lies in object storage, from being removed."""

    @classmethod
    def open(cls, location: Location, trust: TrustedKeys | None = None, proofs: Proofs | None = None) -> Self:
        """Open a bundle; one in object storage is copied first.

        Args:
            location: its folder, or its URL.
            trust: keys, one of which must have signed it; None if it need not be signed.
            proofs: of contents that were verified, whose parts are not read again; this one's is added.

        Raises:
            BundleError: the manifest or a part is absent, truncated or altered.
            TrustError: no trusted key signed it.
            StorageError: the object store refuses, or there is none.
        """
        copy = read_folder(location, BUNDLE)
        bundle = cls._open_folder(copy.path, trust, set() if proofs is None else proofs)
        return bundle if copy.lease is None else replace(bundle, leases=(*bundle.leases, copy.lease))

    @classmethod
    def _open_folder(cls, path: Path, trust: TrustedKeys | None, proofs: Proofs) -> Self:
        while True:
            manifest = load_manifest(path, trust)
            try:
                return cls._open(path, manifest, proofs)
            except BundleError:
                # it may have been replaced twice since its manifest was read, and the content removed
                if current_content(path) in (manifest.content, None):
                    raise

    @classmethod
    def _open(cls, path: Path, manifest: BundleManifest, proofs: Proofs) -> Self:
        lease, proof, folder = None, None, path / manifest.content
        with suppress(OSError):  # a missing folder is reported by its first part
            lease = FolderLease(folder)
            proof = prove(folder, manifest)
        if proof not in proofs:
            for name in manifest.parts:
                _verify(path, name, manifest)
            _refuse_others(folder, manifest)
            if proof is not None:
                proofs.add(proof)
        return cls(folder, manifest, () if lease is None else (lease,))


def _verify(path: Path, name: str, manifest: BundleManifest) -> None:
    """Raise BundleError unless a part is a regular file with the size and the checksum of the manifest."""
    part, shown = manifest.parts[name], path / manifest.content / name
    try:
        with open_regular_file(path, f"{manifest.content}/{name}") as file:
            size = os.fstat(file.fileno()).st_size
            if size == part.bytes and _hash(file) == part.sha256:
                return
    except FileNotFoundError as error:
        raise BundleError(f"{shown}: missing from the bundle ({error.strerror}); export it again") from None
    except OSError as error:
        what = "cannot be opened as a part of the bundle"
        raise BundleError(f"{shown}: {what} ({error.strerror}); export it again") from None
    difference = f"{size} bytes in place of {part.bytes}" if size != part.bytes else "its checksum differs"
    raise BundleError(
        f"{shown}: damaged, or a part of another model version than {manifest.model_version} ({difference}); "
        "export the bundle again"
    )


def _refuse_others(content: Path, manifest: BundleManifest) -> None:
    """Raise BundleError if a content folder holds a file that is no part: it would be read without being verified."""
    try:
        others = set(list_files(content, MOST_PARTS)) - set(manifest.parts)
    except OSError as error:
        raise BundleError(f"{content}: cannot be read ({error.strerror}); export the bundle again") from None
    if others:
        raise BundleError(
            f"{content / min(others)}: no part of the bundle; remove it, or export the bundle again"
        )


def _hash(file: BinaryIO) -> str:
    """Compute the checksum of an open file, in hex."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def measure_parts(folder: Path) -> dict[str, Part]:
    """Compute size and checksum of every file of a content folder. Raises OSError."""
    parts = {}
    for name in sorted(list_files(folder, MOST_PARTS)):
        with open_regular_file(folder, name) as file:
            parts[name] = Part(bytes=os.fstat(file.fileno()).st_size, sha256=_hash(file))
    return parts


def is_proven(path: Path, proofs: Proofs) -> bool:
    """Whether a bundle's content is such as it was when it was verified."""
    try:
        manifest = load_manifest(path)
        return prove(path / manifest.content, manifest) in proofs
    except (BundleError, OSError):
        return False


def current_content(location: Location) -> str | None:
    """Return the name of a bundle's content, None if there is no sound bundle. Raises StorageError."""
    try:
        return load_manifest(location).content
    except BundleError:
        return None


def next_items_seq(path: Path, model_version: str) -> int:
    """Return the `items_seq` to write next: 1 for a new model version, otherwise one more than the bundle has."""
    try:
        manifest = load_manifest(path)
    except BundleError:
        return 1
    return manifest.items_seq + 1 if manifest.model_version == model_version else 1
