"""What every follower does: read, apply, go on where the destination is after an error, and end when it is told to.

One thread reads a batch, applies it, and reads the next: a slow store slows the reading down, and what the client
fetches ahead is bounded.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from corank.core.errors import CorankError, StoreError
from corank.core.reports import Report
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.topic import BrokerAwayError, Message, TopicReader, end_offsets
from corank_serve.store.live_version import OffsetsMovedError

RETRY_SECONDS = 1.0
"""After an error of the store, or of the topic of bad rows."""


class Sink(Protocol):
    """What messages are written into."""

    def apply(self, messages: Sequence[Message]) -> None:
        """Write messages, and the offsets after them, in one step; or keep them until `rest` or `finish`."""

    def rest(self) -> None:
        """Do what is due; called after each batch, and where none came."""

    def finish(self) -> None:
        """Write what was kept: nothing more comes."""


def follow(
    reader: TopicReader, sink: Sink, metrics: FollowMetrics, report: Report, stop: threading.Event
) -> None:
    """Apply messages until told to stop. What was read by then is applied.

    Args:
        reader: of the topic.
        sink: takes the messages.
        metrics: counts.
        report: receives a line when the store, or the topic of bad rows, is away, and when it is back.
        stop: ends it.

    Raises StreamError, and what the sink raises but StoreError, BrokerAwayError and OffsetsMovedError.
    """
    trouble: CorankError | None = None
    while not stop.is_set():
        try:
            messages = reader.read()
            if messages:
                sink.apply(messages)
                metrics.messages.inc(len(messages))
                metrics.behind.set(max(time.time() - messages[-1].timestamp()[1] / 1000, 0))
            reader.advance(end_offsets(messages))
            sink.rest()
            if trouble is not None:
                report(f"{'the store' if isinstance(trouble, StoreError) else 'the broker'} answers again")
            trouble = None
        except OffsetsMovedError:  # of a partition that was handed over, or a write whose reply was lost
            metrics.errors.labels("moved").inc()
            reader.is_astray = True
        except (StoreError, BrokerAwayError) as error:
            metrics.errors.labels("store" if isinstance(error, StoreError) else "broker").inc()
            if str(error) != str(trouble):
                report(f"{error}; trying again")
            trouble, reader.is_astray = error, True
            stop.wait(RETRY_SECONDS)
    if not reader.is_astray:  # else what is kept may be a part of what was read
        sink.finish()


@contextmanager
def stopping_by_signal(stop: threading.Event) -> Iterator[None]:
    """Set an event by SIGTERM and Ctrl-C, in the main thread; a second one ends the process as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
