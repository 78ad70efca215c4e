"""Served requests → Parquet files in the form of a log: a row per candidate, with the level it reached and its scores.

Labels are joined later. The first row of each request also has the request as JSON, and each row the version that
answered, with which `corank replay` computes the scores again. A request waits as a few kilobytes until the next call
of `flush`, which a thread makes; what waits is bounded in bytes, and what is beyond is dropped and counted.

The files are `served-*.parquet`, and `rejected-*.jsonl` for what has no rows there. Both are written under a temporary
name, forced to disk, and renamed when they are complete.
"""

import asyncio
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from corank.core.errors import CorankError
from corank.core.files import PARTIAL, atomic_file, make_private_folder, remove_abandoned
from corank.core.reports import Report
from corank.features.encoders import Encoders
from corank.funnel.funnel import Funnel
from corank.funnel.ranking import Ranking
from corank_serve.log.log_format import ANSWERED, REQUEST, LogFormat
from corank_serve.log.served_rows import Served, count_bytes, encode_served, make_rows
from corank_serve.log.settings import MAX_ROWS, MAX_SECONDS

GROUP_ROWS, GROUP_BYTES = 16_384, 8 * 2**20
"""A row group is written once there are so many rows, or bytes in memory."""
PRIVATE = 0o600
"""Served requests hold ids and columns of users: only the owner may read them."""


BEGUN = "%Y%m%dT%H%M%S"
"""How the name of a file says when it was begun, UTC."""


def open_log_files(folder: Path) -> list[datetime]:
    """When each Parquet file of a log was begun that is not complete, the oldest first.

    A service is writing it, or was killed: the next one to start removes it then.
    """
    files = folder.glob(f"{PARTIAL}served-*")
    begun = (file.name.removeprefix(f"{PARTIAL}served-").partition("-")[0] for file in files)
    return sorted(datetime.strptime(one, BEGUN).replace(tzinfo=UTC) for one in begun)


def describe_open_files(*folders: Path) -> str | None:
    """Say that requests are left out since their files are not complete; None if all files are."""
    begun = [one for folder in folders for one in open_log_files(folder)]
    if not begun:
        return None
    files = "1 file is" if len(begun) == 1 else f"{len(begun)} files are"
    return (
        f"{folders[0]}: {files} not complete yet, the first begun at {min(begun):%Y-%m-%d %H:%M:%S} UTC: the requests "
        "in them are not counted; a service completes a file after --log-seconds (60 unless given), and at its end"
    )


class OpenLogFiles:
    """One Parquet file and one file of rejected requests, until they are completed or discarded."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """`schema` is that of the rows, in which texts that repeat may be dictionaries."""
        self._folder, self.schema = folder, schema
        mark = f"{datetime.now(UTC):{BEGUN}}-{uuid.uuid4().hex[:8]}"
        self.served_path = folder / f"served-{mark}.parquet"
        self._rejected_path = folder / f"rejected-{mark}.jsonl"
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._aside: BinaryIO | None = None
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self.rows, self.rejected = 0, 0

    def write(self, table: pa.Table) -> None:
        """Add rows, all of one schema. Raises OSError if the disk refuses."""
        if self._writer is None:
            plain = [name for name in table.schema.names if name != REQUEST]
            # statistics of the requests would be whole requests
            writer = pq.ParquetWriter(
                self._open(self.served_path),
                table.schema,
                compression="zstd",
                use_dictionary=[n for n in plain if not pa.types.is_floating(table.schema.field(n).type)],
                write_statistics=plain,
                store_schema=False,  # texts that repeat are dictionaries here alone
            )
            # without the Arrow schema, the metadata of that is not written either
            writer.add_key_value_metadata(self.schema.metadata)
            self._writer = self._stack.enter_context(writer)
        self._tables.append(table)
        self.rows += len(table)
        self._bytes += table.nbytes
        if sum(map(len, self._tables)) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def reject(self, served: Served, reason: str) -> None:
        """Set a request aside, a line of JSON with the reason. Raises OSError if the disk refuses."""
        if self._aside is None:
            self._aside = self._stack.enter_context(self._open(self._rejected_path).open("wb"))
        line = {"reason": reason, "request": msgspec.Raw(served["request"])}
        line |= {name: served[name] for name in ANSWERED}
        self._aside.write(msgspec.json.encode(line) + b"\n")
        self.rejected += 1

    def complete(self) -> None:
        """Force both files to disk and give them their names. Raises OSError; both are discarded then."""
        try:
            self._write_group()
        except BaseException:
            self.give_up()
            raise
        self._stack.close()

    def give_up(self) -> None:
        """Remove both files."""
        with suppress(OSError):
            self._stack.__exit__(OSError, OSError("given up"), None)

    def _open(self, path: Path) -> Path:
        make_private_folder(self._folder)
        partial = self._stack.enter_context(atomic_file(path))
        partial.chmod(PRIVATE)
        return partial

    def _write_group(self) -> None:
        if self._tables and self._writer is not None:
            table = pa.concat_tables(self._tables).unify_dictionaries()
            self._tables, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=len(table))


MAX_BYTES = 32 * 2**20
"""Requests that wait to be written take at most so many bytes."""
RETRY_SECONDS = 5.0
"""A log that could not be written is tried again after this."""


class RequestLog:
    """Writes `served-*.parquet` into a folder. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        share: float = 1.0,
        seconds: float = MAX_SECONDS,
        keep: timedelta | None = None,
    ) -> None:
        """
        Args:
            folder: is made if it is missing, for its owner alone.
            share: of requests that are logged, evenly spread.
            seconds: after which a file is completed, and which a process that is killed loses.
            keep: age beyond which files are removed, by the time in their names; None for ever.

        Raises CorankError if the folder cannot be made.
        """
        self.folder, self.share, self.seconds, self.keep = folder, share, seconds, keep
        self._credit, self._bytes = 0.0, 0
        self._prefix, self._numbers = uuid.uuid4().hex[:24], itertools.count()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: list[tuple[LogFormat, Served]] = []
        self._format: tuple[Encoders, LogFormat] | None = None
        self._files: OpenLogFiles | None = None
        self._opened_at, self._retry_at = 0.0, 0.0
        self._in_files, self._taken = 0, 0
        self._counts: Counter[str] = Counter()
        try:
            make_private_folder(folder)
            remove_abandoned(folder, "served-*")
            remove_abandoned(folder, "rejected-*")
            self._remove_old()
        except OSError as error:
            raise CorankError(f"{folder}: served requests cannot be logged there: {error}") from None

    def add(self, funnel: Funnel, one: Ranking) -> None:
        """Keep a request for the next file, or drop it if too much waits already.

        It gets its `served_id`, unique among all logs, if it is in the share that is logged.

        Args:
            funnel: that ranked it.
            one: what became of it.
        """
        self._credit += self.share
        if self._credit < 1:
            return
        self._credit -= 1
        one.served_id = f"{self._prefix}{next(self._numbers):08x}"
        try:
            form, served = self._format_of(funnel), encode_served(one)
        except (TypeError, ValueError, OverflowError):
            self._count(dropped=1)  # built in Python of what JSON cannot hold
            return
        size = count_bytes(served)
        with self._lock:
            if self._bytes + size > MAX_BYTES:
                self._counts["dropped"] += 1
            else:
                self._pending.append((form, served))
                self._bytes += size

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
                    self._bytes -= sum(count_bytes(served) for _, served in pending)

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

    def _write(self, pending: list[tuple[LogFormat, Served]]) -> list[Path]:
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
        self._remove_old()
        return [files.served_path] if files.rows else []

    def _remove_old(self) -> None:
        """Remove complete files that were begun longer ago than `keep`; other workers do so, too. Raises OSError."""
        if self.keep is None:
            return
        oldest = f"{datetime.now(UTC) - self.keep:{BEGUN}}"
        for form in ("served-*.parquet", "rejected-*.jsonl"):
            for file in self.folder.glob(form):
                if file.name.partition("-")[2] < oldest:
                    file.unlink(missing_ok=True)

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


FLUSH_SECONDS = 0.25
"""Seconds between two writes."""

CountLogged = Callable[[Mapping[str, int]], None]
"""Receives how many requests were `written`, `rejected` and `dropped`."""


@asynccontextmanager
async def writing(log: RequestLog | None, report: Report, count: CountLogged) -> AsyncIterator[None]:
    """Write what waits several times a second while the block runs, and the rest at its end.

    A disk that refuses is reported. Without a log nothing is done.
    """
    if log is None:
        yield
        return

    async def flush(complete: bool = False) -> None:
        try:
            if complete or log.is_due():
                await asyncio.to_thread(log.flush, complete)
        except CorankError as error:
            report(str(error))
        count(log.take_counts())

    async def flush_regularly() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await flush()

    task = asyncio.create_task(flush_regularly())
    yield
    task.cancel()
    await flush(complete=True)
