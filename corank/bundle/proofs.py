"""Proofs that a bundle's content was verified, so that the processes of a service read and hash it once.

A proof is a digest of the checksums of the manifest, and of what the file system says of each file: which one it is,
its size, and when its bytes and its status last changed. Whoever writes to a file changes the time of its status, which
no call sets back. Proofs are kept in memory, never in a file: whoever could write that could forge them.
"""

import hashlib
import os
from pathlib import Path
from typing import Protocol

from corank.bundle.manifest import MOST_PARTS, BundleManifest
from corank.core.files import list_files


class Proofs(Protocol):
    """The proofs that are known, such as a `set[bytes]`."""

    def __contains__(self, proof: object, /) -> bool: ...

    def add(self, proof: bytes, /) -> None:
        """Note that what a proof is of was verified."""


def prove(folder: Path, manifest: BundleManifest) -> bytes:
    """Compute the proof of a content folder; it was verified if the proof is known.

    Make it before the files are read: what is written to them later gives another one.

    Raises OSError if the folder cannot be read.
    """
    digest = hashlib.sha256(repr(sorted((name, one.sha256) for name, one in manifest.parts.items())).encode())
    for name in sorted(list_files(folder, MOST_PARTS)):
        one = os.lstat(folder / name)
        facts = (name, one.st_dev, one.st_ino, one.st_mode, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        digest.update(repr(facts).encode())
    return digest.digest()
