"""A process of the pool: runs the jobs that come through a socket, one at a time, until the other end is closed."""

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from corank.core.errors import EngineError
from corank.engine.base import Job, JobOutcome, run_job


def run_jobs(connection: Connection) -> None:
    """Receive a function and jobs as pickles, and send each outcome back. The process ends with the one that sends."""
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    run: Callable[[Job], JobOutcome] | None = None
    while True:
        message = _unpickle(received.get())
        if not isinstance(message, Job):
            run = message
            continue
        assert run is not None
        connection.send(run(message))


def _unpickle(message: bytes) -> Any:
    """Read a function or a job; in place of one that cannot be read a function that says so."""
    try:
        return pickle.loads(message)
    except Exception as error:
        what = f"a task cannot be sent to a worker: {type(error).__name__}: {error}"
        return partial(run_job, partial(_refuse, what))


def _refuse(what: str, task: object) -> None:
    raise EngineError(what)


def _receive(connection: Connection, received: "queue.SimpleQueue[bytes]") -> None:
    try:
        while True:
            received.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)  # the parent has ended, or needs this process no more


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    run_jobs(Connection(int(sys.argv[1])))
