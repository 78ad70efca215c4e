"""Records written to a tracker in a thread of their own: neither its delays nor its failures stall a training."""

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from corank.core.formatting import shorten
from corank.core.types import Report

ATTEMPTS = 3
"""How often a record is tried while the training runs."""
PAUSE_S = 30.0
"""Seconds between the attempts."""


def say_on_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


class RecordWriter:
    """Writes records one after another, in the order in which they were put, each at a time after the training put it.

    The first failure is reported at once, those that follow only by their number, at the end. A failed record is
    tried again after a pause, so that a server may restart; what is put in the meantime waits.
    """

    def __init__(self, name: str, say: Report = say_on_stderr, pause_s: float = PAUSE_S) -> None:
        """
        Args:
            name: of the tracker, with which lines begin.
            say: takes what there is to say.
            pause_s: seconds between two attempts.
        """
        self.name, self.say, self.pause_s = name, say, pause_s
        self._records: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._has_failed, self._lost = False, 0
        # a daemon: a server that does not answer must not keep the process
        self._thread = threading.Thread(target=self._write_all, name=f"track-{name}", daemon=True)
        self._thread.start()

    def put(self, record: Callable[[], object]) -> None:
        """Take a record: a call that writes it."""
        self._records.put(record)

    def close(self, wait_s: float) -> int:
        """Write what is left, each record tried once. Says what could not be written, and returns how many records.

        Args:
            wait_s: seconds until the rest is abandoned.
        """
        self._closing.set()
        self._records.put(None)
        self._thread.join(wait_s)
        late = 0
        if self._thread.is_alive():
            self._abandoned.set()
            late = max(1, self._records.qsize())
        lost = self._lost + late
        if lost:
            self.say(f"{self.name}: {lost:,} records were not written")
        return lost

    def _write_all(self) -> None:
        while (record := self._records.get()) is not None and not self._abandoned.is_set():
            if not self._write(record):
                self._lost += 1

    def _write(self, record: Callable[[], object]) -> bool:
        """Write one record. Returns whether it is written."""
        for attempt in range(ATTEMPTS):
            if attempt and self._closing.wait(self.pause_s):
                return False
            try:
                record()
                return True
            except Exception as error:  # whatever a tracker's library raises
                self._tell(error)
        return False

    def _tell(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            what = " ".join(str(error).split()) or type(error).__name__
            self.say(f"{self.name}: cannot be written to: {shorten(what, 400)}; going on, and trying again")
