"""What a service says of look-ups that fail: little, and true in the end."""

from corank.serving.http.circuit_breaker import BAD
from corank.serving.http.user_lookup import UserLookup
from corank.serving.store.base import Store


def absent() -> Store:
    raise AssertionError("no look-up is made")


def flap(users: UserLookup, times: int) -> None:
    """Let look-ups fail and succeed again, so often."""
    for _ in range(times):
        for _ in range(BAD):
            users.record(False)
        users.record_probe(True)


def test_an_outage_is_told_once_and_flapping_no_more_than_once_a_minute() -> None:
    said: list[str] = []
    users = UserLookup(absent, report=said.append)
    for _ in range(BAD):
        users.record(False)
    for _ in range(5):
        users.record_probe(False)
    (line,) = said
    assert line == "users are not looked up: of the last 20 look-ups 5 failed or took over 100 ms"
    users.record_probe(True)
    assert said[1:] == ["users are looked up again"]
    flap(users, 50)
    assert len(said) == 2, "within a minute"
    users.tell_at = 0.0
    flap(users, 3)
    assert said[2:] == [f"{line}; 51 times since the last line", "users are looked up again"]


def test_an_outage_that_began_within_the_minute_is_told_after_it() -> None:
    said: list[str] = []
    users = UserLookup(absent, report=said.append)
    flap(users, 1)
    for _ in range(BAD):
        users.record(False)
    users.record_probe(False)
    assert len(said) == 2
    users.tell_at = 0.0
    users.record_probe(False)
    assert len(said) == 3 and said[2].startswith("users are not looked up: ")
