"""Workers that make way for new ones, one after the other, while the service runs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from corank.serving.http.process.worker_process import WorkerProcess

if TYPE_CHECKING:
    from corank.core.types import Report


class Renewal:
    """One renewal of all workers. One worker more than usual runs at a time."""

    def __init__(
        self, workers: list[WorkerProcess], start: Callable[[], WorkerProcess], report: "Report"
    ) -> None:
        """
        Args:
            workers: of the service; a new one is put in the place of the old one.
            start: starts a new one.
            report: receives why a renewal stops.
        """
        self._workers, self._start, self._report = workers, start, report
        self._place = 0
        self._successor: WorkerProcess | None = None
        """Of the worker of this place; it has not served yet."""
        self._retired: WorkerProcess | None = None
        """It has made way, and answers what it has begun."""

    @property
    def extra(self) -> list[WorkerProcess]:
        """Processes that run in addition to the service's workers."""
        return [one for one in (self._successor, self._retired) if one is not None]

    def advance(self) -> WorkerProcess | None:
        """Take the next step if it can be taken; return a worker that made way just now."""
        if self._retired is not None:
            if not self._retired.process.is_alive():
                self._retired = None
        elif self._successor is None:
            self._successor = self._start()
        elif self._successor.has_served():
            self._retired, self._workers[self._place] = self._workers[self._place], self._successor
            self._successor, self._place = None, self._place + 1
            self._retired.retire()
            return self._retired
        elif not self._successor.process.is_alive():
            code, trouble = self._successor.process.exitcode, self._successor.trouble
            why = f": {trouble}" if trouble else ""
            self._report(
                f"a new worker ended with exit code {code} before it served{why}; those of before stay"
            )
            self._successor, self._place = None, len(self._workers)
        return None

    def is_over(self) -> bool:
        """Whether all have made way, or one that was to follow could not."""
        return self._place == len(self._workers) and not self.extra

    def stop(self) -> None:
        """Give it up: whoever has not served yet ends."""
        if self._successor is not None:
            self._successor.kill()
            self._successor = None
        self._place = len(self._workers)
