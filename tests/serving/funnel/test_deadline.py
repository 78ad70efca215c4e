import threading
import time
from types import SimpleNamespace

import pytest

from corank.serving.funnel import funnel as deadline
from corank.serving.funnel.funnel import FEW, SAMPLES, DeadlineTimer, LatencyTracker
from tests.support.waiting import PATIENCE, eventually


def test_a_run_is_told_to_end_when_its_time_is_over_and_not_before() -> None:
    watch, now = DeadlineTimer(), time.perf_counter()
    with watch.until(now + 3600) as later, watch.until(now + 0.02) as soon:
        eventually(lambda: soon.terminate)
        assert not later.terminate


def test_a_run_that_has_ended_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(deadline, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    watch = DeadlineTimer()
    with watch.until(3600) as done:
        pass
    now[0] = 4000
    with watch.until(3900) as other:
        eventually(lambda: other.terminate)
    assert not done.terminate


def test_many_at_once_end_in_the_order_of_their_moments() -> None:
    watch, now = DeadlineTimer(), time.perf_counter()
    deadlines = [watch.until(now + 0.005 * n) for n in (9, 2, 5, 1)]
    options = [one.__enter__() for one in deadlines]
    eventually(lambda: all(one.terminate for one in options))
    for one in deadlines:
        one.__exit__(None, None, None)


def test_the_thread_ends_with_the_watch() -> None:
    before = set(threading.enumerate())
    watch = DeadlineTimer()
    (thread,) = set(threading.enumerate()) - before
    assert thread.is_alive()
    del watch
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_pace_is_the_99th_percentile_of_the_last_durations() -> None:
    tracker = LatencyTracker()
    for _ in range(FEW - 1):
        tracker.record(1.0)
    assert tracker.p99 == 0.0
    tracker.record(1.0)
    assert tracker.p99 == 1.0
    for _ in range(SAMPLES + FEW):
        tracker.record(2.0)
    assert tracker.p99 == pytest.approx(2.0)


def test_what_was_slow_once_is_tried_again() -> None:
    tracker = LatencyTracker()
    for _ in range(100):
        tracker.record(5.0)
    for _ in range(100):
        tracker.record_skip()
    assert tracker.p99 == 0.0
