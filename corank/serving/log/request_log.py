"""Served requests → Parquet files in the form of a log: a row per candidate, with the level it reached and its scores.

Labels are joined later. The first row of each request also has the request as JSON, and each row the version that
answered, with which `corank replay` computes the scores again. A request waits as a few kilobytes until the next call
of `flush`, which a thread makes; what waits is bounded in bytes, and what is beyond is dropped and counted.
"""

import itertools
import threading
import time
import uuid
from collections import Counter
from itertools import groupby
from pathlib import Path

from corank.core.errors import CorankError
from corank.core.files import make_private_folder, remove_abandoned
from corank.features.encoders import Encoders
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.log.file_limits import MAX_ROWS, MAX_SECONDS
from corank.serving.log.log_files import OpenLogFiles
from corank.serving.log.log_format import LogFormat
from corank.serving.log.served_request import ServedRequest
from corank.serving.log.served_rows import make_rows
from corank.serving.role import LIVE, Role

MAX_BYTES = 32 * 2**20
"""Requests that wait to be written take at most so many bytes."""
RETRY_SECONDS = 5.0
"""A log that could not be written is tried again after this."""


class RequestLog:
    """Writes `served-*.parquet` into a folder. Safe to share between threads."""

    def __init__(self, folder: Path, share: float = 1.0, seconds: float = MAX_SECONDS) -> None:
        """
        Args:
            folder: is made if it is missing, for its owner alone.
            share: of requests that are logged, evenly spread.
            seconds: after which a file is completed, and which a process that is killed loses.

        Raises CorankError if the folder cannot be made.
        """
        self.folder, self.share, self.seconds = folder, share, seconds
        self._credit, self._bytes = 0.0, 0
        self._prefix, self._numbers = uuid.uuid4().hex[:24], itertools.count()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: list[tuple[LogFormat, ServedRequest]] = []
        self._format: tuple[Encoders, LogFormat] | None = None
        self._files: OpenLogFiles | None = None
        self._opened_at, self._retry_at = 0.0, 0.0
        self._in_files, self._taken = 0, 0
        self._counts: Counter[str] = Counter()
        try:
            make_private_folder(folder)
            remove_abandoned(folder, "served-*")
            remove_abandoned(folder, "rejected-*")
        except OSError as error:
            raise CorankError(f"{folder}: served requests cannot be logged there: {error}") from None

    def add(
        self, funnel: Funnel, result: RankingResult, role: Role = LIVE, id_: str | None = None
    ) -> str | None:
        """Keep a request for the next file, or drop it if too much waits already.

        Args:
            funnel: that ranked it.
            result: of the request.
            role: of the funnel's version.
            id_: of the request if it is logged elsewhere, too; it is then logged whatever the share.

        Returns:
            The request's id, unique among all logs; None if it is not in the share that is logged.
        """
        if id_ is None:
            self._credit += self.share
            if self._credit < 1:
                return None
            self._credit -= 1
            id_ = f"{self._prefix}{next(self._numbers):08x}"
        try:
            one = (self._format_of(funnel), ServedRequest.of(result, id_, role))
        except (TypeError, ValueError, OverflowError):
            self._count(dropped=1)  # built in Python of what JSON cannot hold
            return id_
        size = one[1].size
        with self._lock:
            if self._bytes + size > MAX_BYTES:
                self._counts["dropped"] += 1
            else:
                self._pending.append(one)
                self._bytes += size
        return id_

    def is_due(self) -> bool:
        """Whether there is something to write, or a file to complete."""
        return time.monotonic() >= self._retry_at and (bool(self._pending) or self._is_complete())

    def take_counts(self) -> dict[str, int]:
        """Requests `written`, `rejected` and `dropped` since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return {name: requests for name, requests in counts.items() if requests}

    def flush(self, complete: bool = False) -> list[Path]:
        """Write the requests that wait; complete the files if they are due, or if `complete` is set.

        Returns the Parquet files that were completed. Raises CorankError if the disk refuses: what waited, and what
        the open files contain, is lost then, and counted as dropped.
        """
        with self._writing:
            with self._lock:
                pending, self._pending = self._pending, []
            try:
                done = self._write(pending)
                return done + (self._complete() if complete or self._is_complete() else [])
            except OSError as error:
                lost = self._give_up()
                raise CorankError(
                    f"{self.folder}: {lost:,} served requests are not logged: {error}; make room, or log "
                    "to another folder"
                ) from None
            finally:
                with self._lock:
                    self._bytes -= sum(served.size for _, served in pending)

    def write(self) -> Path | None:
        """Write what waits and complete the file; None if there is none. Raises CorankError, as `flush`."""
        done = self.flush(complete=True)
        return done[-1] if done else None

    def _format_of(self, funnel: Funnel) -> LogFormat:
        """The columns of a funnel's model, computed once per model."""
        encoders, manifest = funnel.request_encoder.encoders, funnel.manifest
        if self._format is None or self._format[0] is not encoders:
            item = funnel.request_encoder.items.layers[0].records.ids.values.dtype
            self._format = (encoders, LogFormat.of(manifest, encoders, item))
        return self._format[1]

    def _write(self, pending: list[tuple[LogFormat, ServedRequest]]) -> list[Path]:
        """Write requests to the open files; complete these first if another model has other columns."""
        done: list[Path] = []
        self._taken = len(pending)
        for _, group in groupby(pending, key=lambda one: id(one[0])):
            entries = list(group)
            form, requests = entries[0][0], [served for _, served in entries]
            if self._files is not None and self._files.schema != form.schema:
                done += self._complete()
            if self._files is None:
                self._files, self._opened_at = OpenLogFiles(self.folder, form.schema), time.monotonic()
            self._taken, self._in_files = self._taken - len(requests), self._in_files + len(requests)
            for rows in make_rows(form, requests, self._files.reject):
                self._files.write(rows)
        return done

    def _is_complete(self) -> bool:
        """Whether the open files are old or large enough."""
        files = self._files
        return files is not None and (
            files.rows >= MAX_ROWS or time.monotonic() - self._opened_at >= self.seconds
        )

    def _complete(self) -> list[Path]:
        """Complete the open files, if there are any."""
        files = self._files
        if files is None:
            return []
        files.complete()
        self._count(written=self._in_files - files.rejected, rejected=files.rejected)
        self._files, self._in_files = None, 0
        return [files.served_path] if files.rows else []

    def _give_up(self) -> int:
        """Remove the open files. Returns how many requests are lost."""
        if self._files is not None:
            self._files.give_up()
        lost = self._in_files + self._taken
        self._files, self._in_files, self._taken = None, 0, 0
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._count(dropped=lost)
        return lost

    def _count(self, **requests: int) -> None:
        with self._lock:
            self._counts.update(requests)
