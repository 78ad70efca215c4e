"""The logs of a service: the access log, and the audit. Several processes may write one file.

The access log has a JSON line about each request, in a file or on stdout. The event loop makes a line and leaves it to
a thread, which writes many at once. Lines that wait are bounded; those beyond are dropped and counted.

The audit has a JSON line about every request that writes or reloads, done or refused, in a file or on stderr.

A file is opened for each write, so that it is rotated by renaming it.
"""

import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from corank.core.errors import ConfigError
from corank.core.reports import Report

if TYPE_CHECKING:
    from corank.bundle.manifest import BundleManifest
    from corank_serve.http.asgi import HttpCall, HttpReply


STDOUT = Path("-")
MAX_LINES = 10_000
"""Lines that may wait to be written."""
FLUSH_SECONDS = 0.2
"""Time between two writes."""
CLOSE_SECONDS = 2.0
"""Time for the last write."""
LONGEST_PATH = 200
"""Characters of a path that are logged."""
PIPE_BYTES = 4096
"""Bytes that several processes can write to one pipe at once without a mix."""


class AccessLog:
    """Writes a line a request."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: is made with the mode 0600 if it is missing; `-` is stdout.

        Raises ConfigError if it cannot be written.
        """
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._dropped, self._refused = 0, False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        require_writable(path, "--access-log")

    def start(self, report: Report, count_dropped: Callable[[int], None]) -> None:
        """Start the thread that writes.

        Args:
            report: receives that the file cannot be written.
            count_dropped: receives how many lines were dropped.
        """
        arguments = (report, count_dropped)
        self._thread = threading.Thread(
            target=self._write_regularly, args=arguments, name="corank-access-log", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and stop; no longer than CLOSE_SECONDS."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def observe(self, call: "HttpCall", reply: "HttpReply", began: float) -> None:
        """Keep the line of a request that is answered, whose answer says its id; as an `Observer`."""
        call.id = call.request_id or os.urandom(8).hex()
        reply.headers.append((b"x-request-id", call.id.encode()))
        if len(self._waiting) >= MAX_LINES:
            self._dropped += 1
            return
        self._waiting.append(
            msgspec.json.encode(self._describe(call, reply, time.perf_counter() - began)) + b"\n"
        )

    def _describe(self, call: "HttpCall", reply: "HttpReply", seconds: float) -> dict[str, Any]:
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": call.id,
            "method": call.scope["method"],
            "path": call.scope["path"][:LONGEST_PATH],
            "status": reply.status,
            "bytes": len(reply.body),
            "ms": round(seconds * 1e3, 3),
            "token": call.caller,
        }
        line |= {name: fact for name, fact in (("trace", call.trace), ("why", call.why)) if fact is not None}
        if ranked := call.ranked:
            line["version"] = ranked[0].model_version
            line["items_seq"] = ranked[0].items_seq
            line["candidates"] = sum(len(one.candidates) + len(one.unknown) for one in ranked)
            parts = dict.fromkeys(name for one in ranked for name in one.seconds)
            line["stages"] = {
                name: round(sum(one.seconds.get(name, 0.0) for one in ranked) * 1e3, 3) for name in parts
            }
            if fallbacks := [one.fallback for one in ranked if one.fallback]:
                line["fallback"] = fallbacks[0]
        return line

    def _write_regularly(self, report: Report, count_dropped: Callable[[int], None]) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._write(report, count_dropped)
        self._write(report, count_dropped)

    def _write(self, report: Report, count_dropped: Callable[[int], None]) -> None:
        dropped, self._dropped = self._dropped, 0
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            _append(self._path, lines)
        except OSError as error:
            dropped += len(lines)
            if not self._refused:
                report(f"{self._path}: the access log cannot be written: {error.strerror}")
            self._refused = True
        else:
            self._refused = self._refused and not lines
        if dropped:
            count_dropped(dropped)


def require_writable(path: Path, what: str) -> None:
    """Make a log's file if it is missing. Raises ConfigError if it cannot be written."""
    try:
        _append(path, [])
    except OSError as error:
        raise ConfigError(f"{what}: {path}: cannot be written: {error.strerror}") from None


def _append(path: Path, lines: list[bytes]) -> None:
    """Append lines in pieces that other processes' lines do not break: a file takes any size, a pipe a page."""
    if path != STDOUT:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    elif sys.__stdout__ is not None:
        handle = os.dup(sys.__stdout__.fileno())
    else:
        return  # the process was started without one
    with os.fdopen(handle, "wb", buffering=0) as file:
        pieces: list[bytes] = []
        if stat.S_ISREG(os.fstat(handle).st_mode):
            pieces.append(b"".join(lines))
        else:
            for line in lines:
                if pieces and len(pieces[-1]) + len(line) <= PIPE_BYTES:
                    pieces[-1] += line
                else:
                    pieces.append(line)
        for piece in pieces:
            while piece:
                piece = piece[file.write(piece) :]


def name_change(manifest: "BundleManifest") -> dict[str, Any]:
    """Name a state of the items: the version, and number and id of its last change, as `corank store log` does."""
    return {
        "version": manifest.content,
        "items_seq": manifest.items_seq,
        "items_id": manifest.items_id,
    }


class AuditLog:
    """Writes audit lines to a file, or to stderr."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is made with the mode 0600 if it is missing. Raises ConfigError if it cannot be written."""
        self._path = path
        if path is not None:
            require_writable(path, "--audit")

    def record(self, action: str, status: int, **facts: Any) -> None:
        """Write a line.

        Args:
            action: what was asked for, such as `upsert`.
            status: of the reply.
            facts: who, and from which change to which.
        """
        line = {"time": datetime.now(UTC).isoformat(), "action": action, "status": status} | facts
        encoded = msgspec.json.encode(line) + b"\n"
        try:
            if self._path is not None:
                _append(self._path, [encoded])
                return
        except OSError as error:
            print(f"corank: {self._path}: the audit cannot be written: {error}", file=sys.stderr)
        sys.stderr.write(f"corank audit: {encoded.decode()}")
        sys.stderr.flush()
