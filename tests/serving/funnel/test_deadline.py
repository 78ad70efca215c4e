import time

import pytest

from corank.serving.funnel.funnel import FEW, SAMPLES, DeadlineTimer, LatencyTracker
from tests.support.waiting import eventually


def test_runs_are_told_to_end_when_their_time_is_over_and_not_before() -> None:
    watch, now = DeadlineTimer(), time.perf_counter()
    deadlines = [watch.until(now + after) for after in (3600, 0.045, 0.01, 0.025)]
    later, *soon = [one.__enter__() for one in deadlines]
    eventually(lambda: all(one.terminate for one in soon))
    assert not later.terminate
    for one in deadlines:
        one.__exit__(None, None, None)


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
    for _ in range(SAMPLES):  # what was slow once is tried again
        tracker.record_skip()
    assert tracker.p99 == 0.0
