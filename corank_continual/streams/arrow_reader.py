"""A process that reads Arrow messages first: one that kills or stops its reader is a bad message, and no more.

Arrow trusts the offsets and sizes of a message: a read by damaged ones is a SIGSEGV, or takes all memory. A check of
all values finds what is known of this; what it does not find ends the reader alone.

The reader takes messages by standard input, a socket, and answers each with its fault, or with nothing. It ends when
the other process ends, since the socket is closed then. So it ignores the signals that end a follower.
"""

import resource
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection

import pyarrow as pa

from corank.core.errors import StreamError

COMMAND = (sys.executable, "-m", "corank_continual.streams.arrow_reader")
MEMORY = 1 << 30
"""Bytes that the reader may have: a compressed message may be ten thousand times as large as it looks."""
SECONDS = 60.0
"""Time in which a message must be read."""
TRIES = 2
"""A message whose reader died is read again, since something else may have ended it."""


class ArrowReader:
    """Asks a process that reads messages, and starts another where it has ended. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link: Connection | None = None
        """The socket to the process."""
        self.end: Callable[[], object] = lambda: None
        """Ends the process, if there is one."""

    def find_fault(self, value: bytes) -> str:
        """Return why a message cannot be read; "" if it can. Raises StreamError if no process can be started."""
        fault = ""
        with self._lock:
            for _ in range(TRIES):
                link = self._link = self._link or self._start()
                try:
                    link.send_bytes(value)
                    if link.poll(SECONDS):
                        return link.recv_bytes().decode()
                    fault = f"it takes longer than {SECONDS:g} s to read"
                except (EOFError, OSError):
                    fault = "it ends the process that reads it"
                self.end()
                self._link = None
        return fault

    def _start(self) -> Connection:
        """Start a process, and wait until it reads. Raises StreamError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
            link = Connection(ours.detach())
            self.end = weakref.finalize(self, _end, link, process)
            link.recv_bytes()
        except (EOFError, OSError) as error:
            self.end()
            raise StreamError(f"no process can be started to read Arrow messages: {error!r}") from None
        return link


def _end(link: Connection, process: "subprocess.Popen[bytes]") -> None:
    link.close()
    process.kill()
    process.wait()


@cache
def shared_reader() -> ArrowReader:
    """The reader of this process."""
    return ArrowReader()


def decode_table(value: bytes) -> pa.Table:
    """Read the record batches of a message that was found to have no fault."""
    with pa.ipc.open_stream(value) as stream:
        return stream.read_all()


def find_fault(value: bytes) -> str:
    """Return why a message cannot be read; "" if it can. It may kill the process."""
    try:
        table = decode_table(value)
        table.validate(full=True)
        names = table.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            return f"a column is there twice: {', '.join(twice)}"
        table.to_pylist()  # which reads all names and values
    except Exception as error:  # of what others sent, anything
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def main() -> None:
    """Answer messages until the other process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most)
    )
    with Connection(sys.stdin.fileno()) as link:
        link.send_bytes(b"")
        try:
            while True:
                link.send_bytes(find_fault(link.recv_bytes()).encode(errors="replace"))
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    main()
