"""Writing a bundle: one process at a time, a new content folder beside the old one, then the pointer in one rename."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.bundle.bundle import Bundle, current_content, measure_parts
from corank.bundle.manifest import BundleManifest, Part, digest, read_manifest
from corank.bundle.signatures import SigningKeys
from corank.core.errors import BundleError
from corank.core.files import PARTIAL, atomic_file, atomic_folder
from corank.core.locks import LOCK, FolderLease, WriteLock, remove_unread


@dataclass(frozen=True)
class BundleWriter:
    """The right to replace a bundle, which one process at a time has.

    What is written may depend on what the bundle held when the lock was taken: it is written only if that is still so.

    Example:
        with BundleWriter.lock(path, "refresh") as writer:
            before = Bundle.open(path)
            ...
            writer.write(manifest, fill)
    """

    path: Path
    before: bytes | None
    """The bundle's `manifest.json` when the lock was taken; None if there was none."""

    @classmethod
    @contextmanager
    def lock(cls, path: Path, command: str) -> Iterator[Self]:
        """Lock a bundle for a command of corank.

        Raises:
            BusyError: another process writes the bundle.
            BundleError: the folder holds something else, or cannot be written.
        """
        _refuse_foreign(path)
        try:
            lock = WriteLock.of_folder(path, command)
        except OSError as error:
            raise BundleError(f"{path}: cannot be written: {error}") from None
        with lock:
            yield cls(path, _read_pointer(path))

    def write(
        self,
        manifest: BundleManifest,
        fill: Callable[[Path], None],
        sign: SigningKeys | None = None,
        check: Callable[[Mapping[str, Part]], None] = lambda parts: None,
    ) -> Bundle:
        """Replace the bundle's content atomically.

        Args:
            manifest: of the bundle; `content`, `parts`, `digest` and `signatures` are filled in here.
            fill: writes the parts into a new content folder.
            sign: keys that sign it.
            check: raises an error if the parts that were written are not to become the bundle's.

        Raises:
            BundleError: the disk refuses, or the bundle is another than when it was locked; it is left as it is.
        """
        # a name of its own each time, so that the content of a reader is never replaced
        content = f"{manifest.model_version}-{manifest.items_seq}-{os.urandom(4).hex()}"
        try:
            with atomic_folder(self.path / content) as partial:
                fill(partial)
                parts = measure_parts(partial)
                check(parts)
            return self._switch(manifest.model_copy(update={"content": content, "parts": parts}), sign)
        except OSError as error:
            raise BundleError(
                f"{self.path}: cannot be written: {error}; what was there before is untouched"
            ) from None

    def _switch(self, manifest: BundleManifest, sign: SigningKeys | None) -> Bundle:
        """Point the bundle to a content folder, and remove contents that nobody reads."""
        before, signatures = current_content(self.path), sign.sign(manifest.signed_content) if sign else []
        plain = manifest.model_copy(update={"signatures": signatures}).plain()
        plain["digest"] = digest(plain)
        content = self.path / manifest.content
        try:
            lease = FolderLease(content)
            published = read_manifest(plain, str(self.path / "manifest.json"), "nothing was written")
            self._refuse_changed()
            with atomic_file(self.path / "manifest.json") as pointer:
                pointer.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        except (OSError, BundleError):
            shutil.rmtree(content, ignore_errors=True)
            raise
        bundle = Bundle(content, published, lease)
        for old in self.path.iterdir():
            if old.name not in (content.name, before) and _is_own(old):
                remove_unread(old) if old.is_dir() else old.unlink(missing_ok=True)
        return bundle

    def _refuse_changed(self) -> None:
        """Raise BundleError if the bundle was replaced since the lock was taken.

        Commands of corank do not, on file systems with locks. A restored backup does, or a copy.
        """
        if _read_pointer(self.path) != self.before:
            raise BundleError(
                f"{self.path}: was replaced by another program while this command ran; nothing was written; "
                "run it again"
            )


def write_bundle(
    path: Path,
    manifest: BundleManifest,
    fill: Callable[[Path], None],
    sign: SigningKeys | None = None,
    check: Callable[[Mapping[str, Part]], None] = lambda parts: None,
) -> Bundle:
    """Write a bundle, whatever was there before. See `BundleWriter`. Raises BusyError, BundleError."""
    with BundleWriter.lock(path, "export") as writer:
        return writer.write(manifest, fill, sign, check)


def _read_pointer(path: Path) -> bytes | None:
    file = path / "manifest.json"
    return file.read_bytes() if file.is_file() else None


def _refuse_foreign(path: Path) -> None:
    """Raise BundleError if a folder holds anything but a bundle."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: exists and is no folder; name another")
    if path.is_dir() and current_content(path) is None:
        # a damaged bundle may be replaced; packed data, too, have a manifest.json
        ours = {p.name for p in path.iterdir() if _is_own(p)}
        foreign = {p.name for p in path.iterdir()} - ours - ({"manifest.json"} if ours else set()) - {LOCK}
        if foreign:
            raise BundleError(
                f"{path}: holds other files ({min(foreign)}) and is no bundle; name another folder"
            )


def _is_own(path: Path) -> bool:
    """Tell whether a path is a content folder, or what an interrupted export left."""
    return path.name.startswith((PARTIAL, ".manifest-")) or (path / "encoders" / "encoders.json").is_file()
