"""The process that reads a store for another one: it carries out the calls that come by standard input, a socket.

It ends when the other process ends, since the socket is closed then. So it ignores the signals that end a service,
which needs its store until the last request is answered.
"""

import signal
import socket
from collections.abc import Iterator
from typing import Any

from corank.core.errors import StoreError
from corank.core.registry import load_environment_plugins
from corank.serving.store.base import Store, open_store
from corank.serving.store.isolation.frames import receive_frame, send_frame

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


def serve_calls(link: socket.socket) -> None:
    """Carry out calls until the socket is closed: the first message is the URL of the store."""
    try:
        calls = StoreCalls(open_store(receive_frame(link)))
        send_frame(link, [True, None])
    except StoreError as error:
        send_frame(link, [False, str(error)])
        return
    while True:
        name, arguments = receive_frame(link)
        try:
            reply = [True, calls.run(name, arguments)]
        except StoreError as error:
            reply = [False, str(error)]
        try:
            send_frame(link, reply)
        except OverflowError as error:
            send_frame(link, [False, str(error)])


def serve_parent() -> None:
    """Serve the process at the other end of standard input."""
    for ended in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ended, signal.SIG_IGN)
    load_environment_plugins()
    with socket.socket(fileno=0) as link:
        try:
            serve_calls(link)
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    serve_parent()
