"""A store that another process reads: damage that kills or stops the reader is an error here, and no more.

LMDB maps a store's file into memory. If the file is shorter than its own pages say, a read of it is a SIGBUS, and if
its pages are garbled, a read may be a SIGSEGV or take for ever. What a service could check ahead does not tell: a
sound file, too, may be shorter than its last page, since pages that were never used are never written.

The reader carries out the calls that come by standard input, a socket, as MessagePack. It ends when the other process
ends, since the socket is closed then. So it ignores the signals that end a service, which needs its store until the
last request is answered.
"""

import inspect
import itertools
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import msgspec

from corank.core.errors import StoreError
from corank.core.registry import load_environment_plugins
from corank.serving.store.base import Store, find_store_class, hide_password, open_store

MOST = 2**30
"""Bytes of a message."""
END_SECONDS = 0.5
"""Time in which a reader must end whose socket is closed."""
SECONDS = 30.0
"""Time in which a call must be answered. A write may wait for another process's."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after which a reader that died is started again: twice as many each time, until one has lived longer."""
COMMAND = (sys.executable, "-m", "corank.serving.store.isolated_store")


def open_isolated(url: str) -> Store:
    """Open a store, by a process of its own if damage to it may kill its reader. Raises StoreError.

    Example:
        with closing(open_isolated("lmdb:/srv/shop")) as store:
            store.head()
    """
    kind = find_store_class(url)
    return IsolatedStore(url) if getattr(kind, "maps_memory", False) else open_store(url)


class StoreReader:
    """A process that reads a store, and the socket to it."""

    def __init__(self) -> None:
        """Start it. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # within a message
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", round(SECONDS), 0))
        self.link = Connection(ours.detach())
        self.began = time.monotonic()
        self._finish = weakref.finalize(self, _end_process, self.link, self.process)

    def ask(self, message: object) -> Any:
        """Send a message, and return the reply. Raises StoreError if it is an error; OSError, EOFError."""
        _send(self.link, message)
        if not self.link.poll(SECONDS):
            raise TimeoutError
        done, value = _receive(self.link)
        if not done:
            raise StoreError(value)
        return value

    def end(self) -> int:
        """End the process, and return its exit status."""
        self._finish()
        return int(self.process.returncode)


def _send(link: Connection, message: object) -> None:
    """Send a message. Raises OSError; OverflowError if it is too long."""
    content = msgspec.msgpack.encode(message)
    if len(content) > MOST:
        raise OverflowError(f"a message of {len(content):,} bytes, and {MOST:,} are the most")
    link.send_bytes(content)


def _receive(link: Connection) -> Any:
    """Receive a message. Raises EOFError if the other side has closed the socket; OSError; DecodeError."""
    return msgspec.msgpack.decode(link.recv_bytes(MOST))


def _end_process(link: Connection, process: subprocess.Popen[bytes]) -> None:
    """Close the socket of a reader, which ends then unless it hangs."""
    link.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remote(name: str) -> Any:
    """Make the method of `Store` of that name, which the reader carries out."""
    signature = inspect.signature(getattr(Store, name))

    def call(store: "IsolatedStore", *given: object, **named: object) -> Any:
        bound = signature.bind(store, *given, **named)
        bound.apply_defaults()
        return store._call(name, *bound.args[1:])

    return call


class IsolatedStore:
    """A `Store` whose calls another process carries out. Safe to share between threads; not after a fork."""

    url_form: ClassVar[str] = "lmdb:PATH"

    def __init__(self, url: str) -> None:
        """Open the store at `url`, which exists. Raises StoreError."""
        self.address = hide_password(url)
        self._url, self._lock, self._numbers = url, threading.Lock(), itertools.count()
        self._reader: StoreReader | None = None
        self._closed, self._pause, self._retry_at = False, FIRST_PAUSE / 2, 0.0
        self._fault = ""
        with self._lock:
            self._start()

    head, swap, put, get = (_remote(name) for name in ("head", "swap", "put", "get"))
    count, drop, tables = (_remote(name) for name in ("count", "drop", "tables"))

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `Store.scan`."""
        number = next(self._numbers)
        try:
            while (batch := self._call("scan", number, table)) is not None:
                yield [(key, value) for key, value in batch]
        except GeneratorExit:
            with suppress(StoreError):
                self._call("end_scan", number)
            raise

    def close(self) -> None:
        """As `Store.close`: the reader ends."""
        with self._lock:
            self._closed = True
            if self._reader is not None:
                self._reader.end()
                self._reader = None

    def _call(self, name: str, *arguments: object) -> Any:
        with self._lock:
            return self._ask(self._reader or self._start(), [name, arguments])

    def _start(self) -> StoreReader:
        """Start a reader, unless one died a moment ago. Raises StoreError."""
        if self._closed:
            raise StoreError(f"{self.address}: closed; open it anew")
        left = self._retry_at - time.monotonic()
        if left > 0:
            raise StoreError(f"{self._fault}; it is started again in {left:.0f} s")
        try:
            reader = StoreReader()
        except OSError as error:
            raise StoreError(f"{self.address}: no process can be started to read it: {error}") from None
        try:
            self._ask(reader, self._url)
        except StoreError:
            reader.end()
            raise
        self._reader = reader
        return reader

    def _ask(self, reader: StoreReader, message: object) -> Any:
        """Send a message to a reader. Raises StoreError if the reply is an error, or the reader dies or hangs."""
        try:
            return reader.ask(message)
        except OverflowError as error:
            raise StoreError(f"{self.address}: {error}") from None
        except (OSError, EOFError, msgspec.DecodeError) as error:
            status, self._reader = reader.end(), None
            lived = time.monotonic() - reader.began
            self._pause = FIRST_PAUSE if lived > LONGEST_PAUSE else min(2 * self._pause, LONGEST_PAUSE)
            self._retry_at = time.monotonic() + self._pause
            self._fault = (
                f"{self.address}: {_describe_end(status, isinstance(error, (TimeoutError, BlockingIOError)))}"
            )
            raise StoreError(self._fault) from None


def _describe_end(status: int, late: bool) -> str:
    """Say how a reader ended."""
    if late:
        return f"the process that reads it gave no answer in {SECONDS:g} s, and was ended"
    if status < 0:
        name = signal.Signals(-status).name
        return (
            f"the process that reads it died of {name}: the store is damaged, or its disk; publish into a new store, "
            "and serve that"
        )
    return f"the process that reads it ended with status {status}"


Batch = list[tuple[bytes, bytes]]


class StoreCalls:
    """The calls of a store, by name, with values that MessagePack has."""

    def __init__(self, store: Store) -> None:
        self._store, self._scans = store, dict[int, Iterator[Batch]]()

    def run(self, name: str, arguments: list[Any]) -> Any:
        """Carry out a call of `Store`, or `end_scan`. Raises StoreError."""
        if name == "scan":
            return self._next_batch(*arguments)
        if name == "end_scan":
            self._scans.pop(arguments[0], None)
            return None
        if name == "put":
            return self._store.put(_to_entries(arguments[0]))
        if name == "swap":
            before, after, entries, gone = arguments
            return self._store.swap(before, after, _to_entries(entries), gone)
        return getattr(self._store, name)(*arguments)

    def _next_batch(self, number: int, table: str) -> Batch | None:
        """The next batch of a scan, which begins when its number comes first; None at its end."""
        if number not in self._scans:
            self._scans[number] = self._store.scan(table)
        batch = next(self._scans[number], None)
        if batch is None:
            del self._scans[number]
        return batch


def _to_entries(tables: dict[str, list[list[bytes]]]) -> dict[str, Batch]:
    """Entries of tables, whose pairs MessagePack made lists."""
    return {table: [(key, value) for key, value in pairs] for table, pairs in tables.items()}


def serve_calls(link: Connection) -> None:
    """Carry out calls until the socket is closed: the first message is the URL of the store."""
    try:
        calls = StoreCalls(open_store(_receive(link)))
        _send(link, [True, None])
    except StoreError as error:
        _send(link, [False, str(error)])
        return
    while True:
        name, arguments = _receive(link)
        try:
            _send(link, [True, calls.run(name, arguments)])
        except (StoreError, OverflowError) as error:
            _send(link, [False, str(error)])


def serve_parent() -> None:
    """Serve the process at the other end of standard input."""
    for ended in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ended, signal.SIG_IGN)
    load_environment_plugins()
    with Connection(0) as link, suppress(EOFError, OSError):
        serve_calls(link)


if __name__ == "__main__":
    serve_parent()
