"""A few threads for calls that may hang; they do not keep the process from its end, as those of an executor would."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """Runs calls in the order in which they come, a bounded number at once. Safe to share between threads."""

    def __init__(self, name: str, threads: int, limit: int) -> None:
        """
        Args:
            name: of the threads.
            threads: number of them.
            limit: calls that may run or wait.
        """
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(limit)
        for _ in range(threads):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T] | None:
        """Run a call, unless its future is cancelled before its turn; None if too many run or wait."""
        if not self._free.acquire(blocking=False):
            return None
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            self._free.release()
            del future, call
