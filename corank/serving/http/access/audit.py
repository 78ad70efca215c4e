"""The audit of a service: a JSON line about every request that writes or reloads, done or refused."""

import fcntl
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from corank.core.errors import ConfigError

if TYPE_CHECKING:
    from corank.bundle.manifest import BundleManifest

REFUSED_A_MINUTE = 100
"""Lines about refused requests, which anybody can cause; those beyond are counted in the next line."""


def name_change(manifest: "BundleManifest") -> dict[str, Any]:
    """Name a state of the items: the version, and number and id of its last change, as `corank store log` does."""
    return {
        "version": manifest.content,
        "items_seq": manifest.items_seq,
        "items_id": manifest.items_id,
    }


class AuditLog:
    """Writes audit lines to a file, or to stderr. Several processes may write one file."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is made with the mode 0600 if it is missing. Raises ConfigError if it cannot be written."""
        self._path = path
        self._minute, self._refused, self._suppressed = 0, 0, 0
        if path is not None:
            try:
                self._append(path, b"")
            except OSError as error:
                raise ConfigError(f"{path}: the audit cannot be written: {error.strerror}") from None

    def record(self, action: str, status: int, **facts: Any) -> None:
        """Write a line.

        Args:
            action: what was asked for, such as `upsert`.
            status: of the reply.
            facts: who, and from which change to which.
        """
        if status >= 400 and not self._may_record_refusal():
            self._suppressed += 1
            return
        line = {"time": datetime.now(UTC).isoformat(), "action": action, "status": status} | facts
        if self._suppressed:
            line["refusals_not_recorded"], self._suppressed = self._suppressed, 0
        encoded = msgspec.json.encode(line) + b"\n"
        try:
            if self._path is not None:
                self._append(self._path, encoded)
                return
        except OSError as error:
            print(f"corank: {self._path}: the audit cannot be written: {error}", file=sys.stderr)
        sys.stderr.write(f"corank audit: {encoded.decode()}")
        sys.stderr.flush()

    def _may_record_refusal(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        self._refused += 1
        return self._refused <= REFUSED_A_MINUTE

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        """Append a line by one write. The file is opened each time, so that it can be rotated by renaming it."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, line)
        finally:
            os.close(handle)
