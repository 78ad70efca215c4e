import pytest

from corank.serving.http import circuit_breaker
from corank.serving.http.circuit_breaker import BAD, WINDOW, CircuitBreaker


@pytest.fixture(autouse=True)
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE_SECONDS", 3600.0)


def opened() -> CircuitBreaker:
    """A breaker that bad calls have opened."""
    breaker = CircuitBreaker()
    for _ in range(BAD):
        breaker.record(False)
    return breaker


def test_it_opens_after_some_bad_calls_among_the_last() -> None:
    breaker = CircuitBreaker()
    for _ in range(BAD - 1):
        breaker.record(False)
    assert not breaker.is_open and breaker.admit() == "call"
    for _ in range(WINDOW):
        breaker.record(True)
    breaker.record(False)
    assert not breaker.is_open, "older bad calls count no more"
    assert opened().is_open and opened().admit() == "skip"


def test_one_probe_at_a_time_is_made_and_a_good_one_closes_it() -> None:
    breaker = opened()
    breaker._probe_at = 0.0
    assert [breaker.admit() for _ in range(3)] == ["probe", "skip", "skip"]
    breaker.record_probe(False)
    assert breaker.is_open and breaker.admit() == "skip", "the next probe is due later"
    breaker._probe_at = 0.0
    assert breaker.admit() == "probe"
    breaker.record_probe(True)
    assert not breaker.is_open and breaker.admit() == "call"
    breaker.record(False)
    assert not breaker.is_open, "what was bad before is forgotten"
