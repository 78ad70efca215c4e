"""Requests that wait for their turn, of which those that wait are taken together.

A process ranks on the thread of its event loop. A request that finds nobody at work ranks at once; what arrives
meanwhile waits, and the first of these then takes all that wait, up to a bound, as one batch: the calls that a batch
needs are shared. So a request alone waits for no other, and the more wait, the less each of them costs.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from corank.core.panics import panics_as_errors

T = TypeVar("T")
R = TypeVar("R")


class _Entry(Generic[T, R]):
    """A request that waits."""

    __slots__ = ("outcome", "request", "size", "woken")

    def __init__(self, request: T, size: int) -> None:
        self.request, self.size = request, size
        self.outcome: R | Exception | None = None
        self.woken: asyncio.Future[bool] | None = None
        """Whether it leads the next batch; else it was ranked in that of another."""

    def wake(self, leads: bool) -> None:
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(leads)

    @property
    def is_cancelled(self) -> bool:
        return self.woken is not None and self.woken.cancelled()

    @property
    def is_leader(self) -> bool:
        woken = self.woken
        return woken is not None and woken.done() and not woken.cancelled() and woken.result()


class RankQueue(Generic[T, R]):
    """Requests in the order in which they came. The coroutine of the first ranks; there is no task of its own."""

    def __init__(
        self, rank: Callable[[Sequence[T]], Sequence[R | Exception]], requests: int, candidates: int
    ) -> None:
        """
        Args:
            rank: ranks a batch: for each request its outcome, or the error that it gets.
            requests: of a batch, at most.
            candidates: of a batch of several requests, at most.
        """
        self._rank, self._most_requests, self._most_candidates = rank, requests, candidates
        self._waiting: deque[_Entry[T, R]] = deque()
        self._busy = False

    async def run(self, request: T, candidates: int, alone: bool = False) -> R:
        """Wait for the turn of a request of so many candidates, and return its outcome. Raises its error.

        `alone`: no other request has arrived, so that there is none to let in before this one is ranked.
        """
        if alone and not self._busy:
            (outcome,) = self._outcomes([request])
            return _return(outcome)
        entry: _Entry[T, R] = _Entry(request, candidates)
        self._waiting.append(entry)
        leads, self._busy = not self._busy, True
        try:
            if not leads:
                entry.woken = asyncio.get_running_loop().create_future()
                leads = await entry.woken
            if leads:
                await asyncio.sleep(0)  # the loop reads what has arrived
                self._rank_waiting()
        finally:
            with suppress(ValueError):  # cancelled
                self._waiting.remove(entry)
            if leads or entry.is_leader:
                self._pass_on()
        assert entry.outcome is not None
        return _return(entry.outcome)

    def _rank_waiting(self) -> None:
        batch, left = [self._waiting.popleft()], self._most_candidates
        left -= batch[0].size
        while self._waiting and len(batch) < self._most_requests and self._waiting[0].size <= left:
            batch.append(self._waiting.popleft())
            left -= batch[-1].size
        outcomes = self._outcomes([entry.request for entry in batch])
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.outcome = outcome
            entry.wake(leads=False)

    def _outcomes(self, requests: Sequence[T]) -> Sequence[R | Exception]:
        """The outcome of each request of a batch, whatever happens: nobody else answers those that wait for it."""
        try:
            with panics_as_errors():
                return self._rank(requests)
        except Exception as error:
            return [error] * len(requests)

    def _pass_on(self) -> None:
        """Let the first that waits lead the next batch."""
        while self._waiting and self._waiting[0].is_cancelled:
            self._waiting.popleft()
        if self._waiting:
            self._waiting[0].wake(leads=True)
        else:
            self._busy = False


def _return(outcome: R | Exception) -> R:
    """The outcome of a request. Raises its error."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
