import threading

import pytest

from corank.serving.http.circuit_breaker import DaemonThreads
from tests.support.waiting import PATIENCE


def test_calls_beyond_the_limit_are_refused_until_others_end() -> None:
    threads, gate = DaemonThreads("test", 1, 2), threading.Event()
    running, waiting = threads.submit(gate.wait), threads.submit(lambda: 7)
    assert running is not None and waiting is not None
    assert threads.submit(lambda: 8) is None
    gate.set()
    assert running.result(PATIENCE) and waiting.result(10) == 7
    while (later := threads.submit(lambda: 9)) is None:
        pass
    assert later.result(PATIENCE) == 9


def test_a_cancelled_call_is_not_made() -> None:
    threads, gate, made = DaemonThreads("test", 1, 3), threading.Event(), list[int]()
    running, cancelled = threads.submit(gate.wait), threads.submit(lambda: made.append(1))
    assert running is not None and cancelled is not None and cancelled.cancel()
    gate.set()
    last = threads.submit(lambda: made.append(2))
    assert last is not None and last.result(PATIENCE) is None
    assert made == [2]


def test_an_error_of_a_call_is_its_result() -> None:
    failing = DaemonThreads("test", 1, 1).submit(lambda: 1 // 0)
    assert failing is not None
    with pytest.raises(ZeroDivisionError):
        failing.result(PATIENCE)
