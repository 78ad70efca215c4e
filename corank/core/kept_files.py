"""What takes long to compute, kept under a hash of all that it depends on, such as `CACHE/templates/<key>`.

A file is written whole or not at all, and is but a copy of what can be computed again: one that cannot be read, written
or believed is no error.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.core.artifact_cache import CACHE
from corank.core.files import CHECKSUM, make_private_folder, open_regular_file, unseal, write_sealed

BOUND = 32 << 20
"""Bytes of all files of a folder; those that were not used for longest go first."""


@dataclass(frozen=True)
class KeptFiles:
    """A folder of small files by key, of at most `bound` bytes; of None, none are kept.

    Example:
        KeptFiles.of_user("templates").read(key)
    """

    folder: Path | None
    bound: int = BOUND

    @classmethod
    def of_user(cls, name: str) -> Self:
        """That of a name in CORANK_CACHE, or in the user's cache as XDG_CACHE_HOME has it, or in ~/.cache."""
        if named := os.environ.get(CACHE):
            return cls(Path(named) / name)
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:  # a relative one is to be ignored (XDG Base Directory Specification)
            base = base if base.is_absolute() else Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return cls(None)
        return cls(base / "corank" / name)

    def read(self, key: str) -> bytes | None:
        """What is kept under a key; None if there is nothing that this user wrote, whole and unchanged."""
        if self.folder is None:
            return None
        try:
            with open_regular_file(self.folder, key) as file:
                facts = os.fstat(file.fileno())
                raw = file.read() if facts.st_uid == os.geteuid() and facts.st_size <= self.bound else b""
            os.utime(self.folder / key)  # as used now
        except OSError:
            return None
        content = unseal(key, raw)
        return None if content is None else bytes(content)

    def keep(self, key: str, content: bytes) -> None:
        """Keep something, if the folder can be written and has room for it."""
        size = CHECKSUM + len(content)
        if self.folder is None or size > self.bound:
            return
        with suppress(OSError):
            make_private_folder(self.folder)
            self._make_room(size)
            write_sealed(self.folder / key, key, content)

    def _make_room(self, needed: int) -> None:
        """Remove those that were not used for longest, until there is room. Raises OSError."""
        assert self.folder is not None
        files = []
        for path in self.folder.glob("[0-9a-f]*"):
            with suppress(FileNotFoundError):  # another process made room, too
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self.bound:
                return
            path.unlink(missing_ok=True)
            total -= size


NOWHERE = KeptFiles(None)
"""Keeps nothing."""
