"""A few of the hostile messages of `scripts/bench fuzz --only follow`."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.hostile_messages import attack, hostile_log, hostile_store, takes_a_version
from tests.support.kafka_broker import Broker

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["items", "users", "log"])
def test_hostile_messages_end_no_follower_and_lose_no_row(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with ExitStack() as stack:
        target, store = (
            (hostile_log(tmp_path), None)
            if kind == "log"
            else stack.enter_context(hostile_store(kind, tmp_path))
        )
        counts = attack(broker, target, tmp_path, 60, 25, 0)
        assert store is None or takes_a_version(store, tmp_path)
    letters = counts.pop("letters")
    assert counts == {"cases": 85, "failed": 0, "lost": 0, "wronged": 0} and letters > 40
