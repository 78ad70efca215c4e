"""Followers as tests run them: in a thread until told to stop, or in a process of their own that is killed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from corank.core.reports import Report
from corank_continual.follow import _follow_log, _follow_store
from corank_continual.streams.store import StoreSink
from tests.support.waiting import PATIENCE, eventually


@dataclass
class Following:
    """A follower in a thread."""

    stop: threading.Event = field(default_factory=threading.Event)
    said: list[str] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    def check(self) -> None:
        """Raise what ended it."""
        if self.failed:
            raise self.failed[0]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. Raises what ended the follower before."""

        def holds() -> object:
            self.check()
            return condition()

        eventually(holds)


@contextmanager
def _thread(follow: Callable[[threading.Event, Report], None]) -> Iterator[Following]:
    following = Following()

    def run() -> None:
        try:
            follow(following.stop, following.said.append)
        except BaseException as error:
            following.failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield following
    finally:
        following.stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def following_store(
    kind: type[StoreSink], source: str, store: str, group: str | None = None, dead_letter: Any = None
) -> Iterator[Following]:
    """A follower of items or users; what it was told to do is done at the end."""
    letters = None if dead_letter is None else str(dead_letter)

    def follow(stop: threading.Event, report: Report) -> None:
        _follow_store(kind, source, store, group, letters, None, report, stop)

    with _thread(follow) as following:
        yield following


@contextmanager
def following_log(
    source: str, folder: Path, config: Path, period: timedelta, wait: timedelta, dead_letter: Any = None
) -> Iterator[Following]:
    """A follower of candidates."""
    letters = None if dead_letter is None else str(dead_letter)

    def follow(stop: threading.Event, report: Report) -> None:
        _follow_log(source, folder, config, period, wait, letters, None, report, stop)

    with _thread(follow) as following:
        yield following
