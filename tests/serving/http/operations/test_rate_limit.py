"""Rates of requests: the bucket's arithmetic, what workers share, and the answers to clients."""

import fcntl
import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from corank.core.errors import ConfigError
from corank.serving.http import tokens as rate_limit
from corank.serving.http.access_control import AccessControl, OriginPolicy
from corank.serving.http.asgi import RefusedError
from corank.serving.http.follower import Follower
from corank.serving.http.serve_settings import Limits
from corank.serving.http.tokens import Rate, RateLimiter, Scope, Tokens, add_token, read_tokens
from corank.serving.http.worker import RankingService
from corank.serving.store.source import BundleSource
from tests.support.random_worlds import RICH
from tests.support.service import call_of
from tests.support.shared import shared_case


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [1000.0]
    monkeypatch.setattr("corank.serving.http.tokens.time.monotonic", lambda: now[0])
    return now


def test_a_bucket_lets_a_burst_pass_and_then_the_rate(clock: list[float]) -> None:
    limiter, rate = RateLimiter(), Rate.of(10, 3)
    assert [limiter.take("feed", rate) for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])
    clock[0] += 0.1
    assert [limiter.take("feed", rate) for _ in range(2)] == pytest.approx([0, 0.1])
    assert limiter.take("web", rate) == 0
    clock[0] += 60
    assert [limiter.take("feed", rate) for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


def test_over_a_long_time_exactly_the_rate_passes(clock: list[float]) -> None:
    limiter, rate, passed = RateLimiter(), Rate.of(50, 5), 0
    for _ in range(10_000):
        passed += limiter.take("feed", rate) == 0
        clock[0] += 0.001
    assert passed == pytest.approx(50 * 10 + 5, abs=1)


def test_a_batch_counts_as_its_requests_and_may_be_larger_than_the_burst(clock: list[float]) -> None:
    limiter, rate = RateLimiter(), Rate.of(10, 5)
    assert limiter.take("feed", rate, 20) == 0
    assert limiter.take("feed", rate) == pytest.approx(1.6)


def test_workers_share_buckets_also_with_one_that_is_stopped_in_between(
    tmp_path: Path, clock: list[float]
) -> None:
    path, rate = tmp_path / "buckets", Rate.of(1, 4)
    one, other = RateLimiter(path), RateLimiter(path)
    assert [limiter.take("feed", rate) > 0 for limiter in (one, other) * 3] == [False] * 4 + [True] * 2
    stopped = os.open(path, os.O_RDWR)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    assert one.take("web", rate) == 0
    os.close(stopped)


def test_more_tokens_than_slots_near_each_other_do_not_hurt(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setattr(rate_limit, "SLOTS", 8)
    limiter, rate = RateLimiter(), Rate.of(1, 1)
    waits = [limiter.take(str(n), rate) for n in range(20)]
    assert waits == [0] * 20
    assert limiter.take("0", rate) > 0
    clock[0] += 10
    assert limiter.take("19", rate) == 0 and limiter.take("19", rate) > 0


def test_a_token_beyond_its_rate_is_told_when_to_come_again(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "tokens"
    slow, plain = add_token(path, "slow", "read", rate=0.25), add_token(path, "plain", "read")
    assert [token.rate for token in read_tokens(path)] == [0.25, None]
    access = AccessControl(tokens=Tokens((), path), rate=Rate.of(2))

    def refusal(secret: str) -> RefusedError | None:
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {secret}".encode())]
        try:
            access.authorize(call_of(headers), Scope.READ)
        except RefusedError as refused:
            return refused
        return None

    assert refusal(slow) is None
    refused = refusal(slow)
    assert refused is not None and (refused.status, refused.why) == (429, "rate")
    assert refused.headers == {"Retry-After": "4"}
    assert refused.error == "slow may send 0.25 requests a second; try again"
    assert [refusal(plain) is None for _ in range(3)] == [True, True, False]
    clock[0] += 4
    assert refusal(slow) is None


def test_a_rate_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add_token(path, "feed", "read")
    path.write_text(path.read_text().replace("}", ',"rate":0}'))
    with pytest.raises(ConfigError, match=r"tokens:1: not a token: Expected `float` > 0.* at `\$.rate`"):
        read_tokens(path)


def test_the_requests_of_a_batch_count_and_are_counted_by_token(clock: list[float]) -> None:
    follower = Follower(BundleSource(shared_case(RICH).base / "bundle"))
    control = AccessControl(OriginPolicy(["testserver"]), rate=Rate.of(4))
    batch = {"requests": [{"user": {}, "candidates": [1]}] * 3}
    with TestClient(RankingService(follower, Limits(), control).app()) as client:
        assert [client.post("/rank/batch", json=batch).status_code for _ in range(2)] == [200, 429]
        assert client.get("/healthz").status_code == 200
        clock[0] += 60
        text = client.get("/metrics").text
    assert 'corank_http_requests_total{status="429",token="nobody"} 1.0' in text
