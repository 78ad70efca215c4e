"""When calls are made, by how many threads, and what a service says of look-ups that fail: little, and true at last."""

import threading

import pytest

from corank_serve.http import circuit_breaker
from corank_serve.http.circuit_breaker import BAD, WINDOW, CircuitBreaker, DaemonThreads
from corank_serve.http.user_lookup import UserLookup
from corank_serve.store.base import Store
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_SECONDS", 3600.0)


def test_it_opens_after_some_bad_calls_and_a_good_probe_closes_it() -> None:
    breaker = CircuitBreaker()
    for good in (*[False] * (BAD - 1), *[True] * WINDOW, False):
        breaker.record(good)
        assert breaker.admit() == "call", "older bad calls count no more"
    for _ in range(BAD - 1):
        breaker.record(False)
    assert breaker.is_open and breaker.admit() == "skip"
    breaker._probe_at = 0.0
    assert [breaker.admit() for _ in range(3)] == ["probe", "skip", "skip"]
    breaker.record(False, is_probe=True)
    assert breaker.is_open and breaker.admit() == "skip", "the next probe is due later"
    breaker._probe_at = 0.0
    assert breaker.admit() == "probe"
    breaker.record(True, is_probe=True)
    breaker.record(False)
    assert not breaker.is_open and breaker.admit() == "call", "what was bad before is forgotten"


def test_calls_beyond_the_limit_are_refused_and_a_cancelled_one_is_not_made() -> None:
    threads, gate, made = DaemonThreads("test", 1, 3), threading.Event(), list[int]()
    running, cancelled = threads.submit(gate.wait), threads.submit(lambda: made.append(1))
    failing = threads.submit(lambda: 1 // 0)
    assert running is not None and cancelled is not None and failing is not None
    assert threads.submit(lambda: made.append(2)) is None
    assert cancelled.cancel()
    gate.set()
    with pytest.raises(ZeroDivisionError):
        failing.result(PATIENCE)
    while (later := threads.submit(lambda: made.append(3))) is None:
        pass
    later.result(PATIENCE)
    assert made == [3]


def absent() -> Store:
    raise AssertionError("no look-up is made")


def flap(users: UserLookup, times: int) -> None:
    """Let look-ups fail and succeed again, so often."""
    for _ in range(times):
        for _ in range(BAD):
            users.record(False)
        users.record(True, is_probe=True)


def test_an_outage_is_told_once_and_flapping_no_more_than_once_a_minute() -> None:
    said: list[str] = []
    users = UserLookup(absent, report=said.append)
    for _ in range(BAD):
        users.record(False)
    for _ in range(5):
        users.record(False, is_probe=True)
    (line,) = said
    assert line == "users are not looked up: of the last 20 look-ups 5 failed or took over 100 ms"
    users.record(True, is_probe=True)
    assert said[1:] == ["users are looked up again"]
    flap(users, 50)
    assert len(said) == 2, "within a minute"
    for _ in range(BAD):
        users.record(False)
    users.tell_at = 0.0
    users.record(False, is_probe=True)
    assert said[2:] == [f"{line}; 51 times since the last line"]
