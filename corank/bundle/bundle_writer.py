"""Write a bundle: one process at a time, a new content folder next to the old one, then the pointer in one rename.

The fp32 copy of a content that is being written: the reference for measuring its precision loss.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from corank.bundle.bundle import Bundle, current_content, measure_parts
from corank.bundle.content import part_file, save_parts, store_parts
from corank.bundle.manifest import BUNDLE, MOST_PARTS, BundleManifest, digest, read_manifest, signed_content
from corank.bundle.signatures import SigningKeys, is_content_name
from corank.bundle.stage_facts import PrecisionLoss
from corank.core.errors import BundleError
from corank.core.files import PARTIAL, atomic_file, atomic_folder, link_file, list_files
from corank.core.local_copy import write_folder
from corank.core.locks import LOCK, FolderLease, WriteLock, remove_unread
from corank.core.objects import Location
from corank.core.types import Floats


@dataclass(frozen=True)
class BundleWriter:
    """The right to replace a bundle, which one process at a time has.

    New content may depend on the bundle's content at the time of the lock: it is written only if that is unchanged.

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
        fill: Callable[[Path], BundleManifest | None],
        sign: SigningKeys | None = None,
    ) -> Bundle:
        """Replace the bundle's content atomically.

        Args:
            manifest: of the bundle; `content`, `parts`, `digest` and `signatures` are filled in here.
            fill: writes the parts into a new content folder; may return the manifest, completed from the parts.
            sign: keys that sign it.

        Raises:
            BundleError: the disk refuses, or the bundle is another than when it was locked; it is left as it is.
        """
        # a unique name, so that content in use by a reader is never replaced
        content = f"{manifest.model_version}-{manifest.items_seq}-{os.urandom(4).hex()}"
        try:
            with atomic_folder(self.path / content) as partial:
                new_manifest = fill(partial)
                parts = measure_parts(partial)
            whole = (new_manifest or manifest).model_copy(
                update={"content": content, "parts": parts, "signatures": []}
            )
            if sign is not None:
                whole = whole.model_copy(update={"signatures": sign.sign(signed_content(whole.plain()))})
            return self._switch(content, whole.plain())
        except OSError as error:
            raise _not_written(self.path, error) from None

    def restore(self, plain: dict[str, Any], fill: Callable[[Path, BundleManifest], None]) -> Bundle:
        """Replace the bundle's content by that of a manifest, whose parts it must have.

        Args:
            plain: the JSON value of the manifest, with its signatures.
            fill: writes the parts of a manifest into a new content folder.

        Raises:
            BundleError: a part is not what the manifest says, the disk refuses, or the bundle is another than when it
                was locked; it is left as it is.
        """
        manifest = read_manifest(
            plain | {"digest": digest(plain)}, str(self.path), "publish the bundle again"
        )
        try:
            with atomic_folder(self.path / manifest.content, replace=True) as partial:
                fill(partial, manifest)
                parts = measure_parts(partial)
                odd = {name for name in parts | manifest.parts if parts.get(name) != manifest.parts.get(name)}
                if odd:
                    raise BundleError(
                        f"{self.path}: {min(odd)} of {manifest.content} is not as published; publish it again"
                    )
            return self._switch(manifest.content, plain)
        except OSError as error:
            raise _not_written(self.path, error) from None

    def _switch(self, name: str, plain: dict[str, Any]) -> Bundle:
        """Point the bundle to a content folder by its manifest, and remove contents that nobody reads."""
        before, content = current_content(self.path), self.path / name
        plain = plain | {"digest": digest(plain)}
        try:
            lease = FolderLease(content)
            published = read_manifest(plain, str(self.path / "manifest.json"), "nothing was written")
            self._refuse_changed()
            with atomic_file(self.path / "manifest.json") as pointer:
                pointer.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        except (OSError, BundleError):
            shutil.rmtree(content, ignore_errors=True)
            raise
        bundle = Bundle(content, published, (lease,))
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
) -> Bundle:
    """Write a bundle, whatever was there before. See `BundleWriter`. Raises BusyError, BundleError."""
    with BundleWriter.lock(path, "export") as writer:
        return writer.write(manifest, fill, sign)


def replace_bundle(location: Location, write: Callable[[Path], Bundle], reads: bool) -> Bundle:
    """Replace a bundle by what a function writes.

    Args:
        location: the bundle's folder, or its URL.
        write: writes a bundle into a folder, which holds the present one if `reads`, otherwise its manifest alone.
        reads: whether it reads the present bundle.

    Raises BusyError, StorageError, and what the function raises; the bundle is left as it is then.
    """
    if isinstance(location, Path):
        return write(location)
    with write_folder(location, BUNDLE, lambda name: reads or name == "manifest.json", keep=True) as folder:
        write(folder)
        content = current_content(folder)
        for earlier in folder.iterdir():
            if is_content_name(earlier.name) and earlier.name != content:
                shutil.rmtree(earlier)
    return Bundle.open(location)


def _not_written(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path}: cannot be written: {error}; what was there before is untouched")


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


MeasureLoss = Callable[[Bundle, Bundle], PrecisionLoss]
"""Compares a bundle in fp32 with the same bundle as it is stored. Raises ConfigError if the loss is beyond a bound."""


def write_full_precision(
    folder: Path, content: Path, manifest: BundleManifest, parts: Mapping[str, Floats]
) -> Bundle:
    """Write the content of a bundle with its item parts in fp32 into a folder; what does not differ is linked.

    Args:
        folder: of the new content.
        content: the content, without retrieval yet.
        manifest: of the content.
        parts: (N, d) by `STAGE.PART`.
    """
    own = {part_file(content, part).stem for part in parts}
    for part in list_files(content, MOST_PARTS):
        stem = Path(part).name.removesuffix(".npy").removesuffix(".scale")
        if not (part.startswith("items/") and stem in own):
            link_file(content / part, folder / part)
    stages = [stage.model_copy(update={"precision": {}}) for stage in manifest.stages]
    save_parts(folder, store_parts(parts, stages))
    return Bundle(folder, manifest.model_copy(update={"stages": stages}))
