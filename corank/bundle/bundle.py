"""The bundle: the files that are shipped. Its manifest names one content folder, and size and checksum of every part.

    BUNDLE/manifest.json                     the pointer: written last, switched in one rename
    BUNDLE/<model_version>-<items_seq>/      encoders/  tables/  items/  and a stage's graphs:
                                            <stage>.query.onnx and <stage>.item.onnx, or <stage>.onnx; priors/

A reader sees the old content or the new, never half; the content before the newest stays for those still reading it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from corank.bundle.manifest import BundleManifest, Part, digest, load_manifest
from corank.bundle.signatures import SigningKeys, TrustedKeys
from corank.core.errors import BundleError
from corank.core.files import PARTIAL, atomic_file, atomic_folder

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
        manifest = load_manifest(path, trust)
        folder = path / manifest.content
        for name, part in () if verified else manifest.parts.items():
            _verify(folder / name, part, manifest.model_version)
        return cls(folder, manifest)


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


def write_bundle(
    path: Path, manifest: BundleManifest, fill: Callable[[Path], None], sign: SigningKeys | None = None
) -> Bundle:
    """Write a bundle, or replace the content of one, atomically.

    Args:
        path: its folder.
        manifest: its manifest; `content`, `parts`, `digest` and `signatures` are filled in here.
        fill: writes the parts into a new content folder.
        sign: keys that sign it.

    Raises:
        BundleError: the disk refuses, or the folder holds something else.
    """
    _refuse_foreign(path)
    # a name of its own each time, so that the content of a reader is never replaced
    content = f"{manifest.model_version}-{manifest.items_seq}-{os.urandom(4).hex()}"
    try:
        with atomic_folder(path / content) as partial:
            fill(partial)
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            parts = {
                str(p.relative_to(partial)): Part(bytes=p.stat().st_size, sha256=sha256(p)) for p in files
            }
        return _publish(path, manifest.model_copy(update={"content": content, "parts": parts}), sign)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error}; what was there before is untouched") from None


def _refuse_foreign(path: Path) -> None:
    """Raise BundleError if a folder holds anything but a bundle."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: exists and is no folder; name another")
    if path.is_dir() and current_content(path) is None:
        # a damaged bundle may be replaced; packed data, too, have a manifest.json
        ours = {p.name for p in path.iterdir() if _is_own(p)}
        foreign = {p.name for p in path.iterdir()} - ours - ({"manifest.json"} if ours else set())
        if foreign:
            raise BundleError(
                f"{path}: holds other files ({min(foreign)}) and is no bundle; name another folder"
            )


def _is_own(path: Path) -> bool:
    """Tell whether a path is a content folder, or what an interrupted export left."""
    return path.name.startswith((PARTIAL, ".manifest-")) or (path / "encoders" / "encoders.json").is_file()


def _publish(path: Path, manifest: BundleManifest, sign: SigningKeys | None) -> Bundle:
    """Switch a bundle to a content folder, and remove the contents before the last one."""
    before, signatures = current_content(path), sign.sign(manifest.signed_content) if sign else []
    plain = manifest.model_copy(update={"signatures": signatures}).plain()
    plain["digest"] = digest(plain)
    try:
        with atomic_file(path / "manifest.json") as pointer:
            pointer.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    except OSError:
        shutil.rmtree(path / manifest.content, ignore_errors=True)
        raise
    for old in path.iterdir():
        if old.name not in (manifest.content, before) and _is_own(old):
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    return Bundle(path / manifest.content, BundleManifest.model_validate(plain))


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
