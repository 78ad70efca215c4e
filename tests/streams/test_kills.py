"""Killed at any step, handed over or raced for: each message is applied once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from corank.core.errors import StreamError
from corank_continual.streams.store import ItemSink
from corank_serve.store.base import Store, open_store
from corank_serve.store.journal import read_journal
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.streams.test_log import logged, request, whole
from tests.support.configs import shop
from tests.support.followers import follow_items, follow_log
from tests.support.following import following_store
from tests.support.kafka_broker import Broker, kafka_broker
from tests.support.kills import count_changes, kill_at, run, start
from tests.support.ports import free_port
from tests.support.shared import derived
from tests.support.stores import item
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as opened:
        publish_bundle(derived().base / "bundle", opened)
        yield opened


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of new items, of ascending ids."""
    given = item(4)
    return [{"item_id": first + n} | {k: v for k, v in given.items() if k != "id"} for n in range(count)]


def applied(store: Store) -> list[int]:
    """The ids of all changes, in order."""
    _, state = StoreState.read(store)
    return [row["id"] for _, change in read_journal(store, 0, state.seq) for row in change.items]


def test_killed_before_or_after_any_change_items_are_applied_once(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source = broker.make_topic("killed")
    broker.send("killed", rows(1000, 60))
    options = source, store.address, tmp_path / "cache", broker.properties
    for n in range(8):
        process = start(follow_items, *options, f"killed{n}", 4, 1 + n % 3, n % 2 == 1)
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
    last = start(follow_items, *options, "last", 4, 0, False)
    eventually(lambda: StoreState.read(store)[1].offsets.get("items/killed/0") == 60)
    last.terminate()
    last.join(PATIENCE)
    assert last.exitcode == 0
    assert applied(store) == [*range(1000, 1060)]


def test_partitions_that_are_handed_over_and_raced_for_are_applied_once(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source = broker.make_topic("shared", 4)
    options = source, store.address, tmp_path / "cache", broker.properties
    followers = [start(follow_items, *options, "one", 3, 0, False)]

    def total() -> int:
        offsets = StoreState.read(store)[1].offsets
        return sum(offsets.get(f"items/shared/{partition}", 0) for partition in range(4))

    def all_of(part: int) -> bool:
        return total() == 200 * (part + 1)

    for part in range(4):
        for partition in range(4):
            broker.send("shared", rows(1000 + 200 * part + 50 * partition, 50), partition)
        if part == 1:  # a second one gets some partitions, and one of another group reads the same messages
            followers += [start(follow_items, *options, group, 3, 0, False) for group in ("one", "two")]
        if part == 2:
            followers.pop(0).kill()
        eventually(partial(all_of, part))
    for process in followers:
        process.terminate()
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted(applied(store)) == [*range(1000, 1800)]


def test_killed_at_any_step_a_log_has_each_row_once(broker: Broker, tmp_path: Path) -> None:
    source = broker.make_topic("killedlog", 2)
    for partition in range(2):
        for n in range(6):
            broker.send("killedlog", request(10 * n + partition, 5 + 10 * n), partition)

    def fresh(name: str) -> Path:
        folder = tmp_path / name / "log"
        folder.mkdir(parents=True)
        shop(folder.parent).rename(folder.parent / "config.yaml")
        return folder

    options = broker.properties, 5
    steps = count_changes(follow_log, source, fresh("count"), *options)
    assert steps > 10
    for step in range(2, steps, max(steps // 12, 1)):
        folder = fresh(str(step))
        kill_at(step, follow_log, source, folder, *options)
        run(follow_log, source, folder, *options)
        assert [*logged(folder).values()] == [whole(10 * n, 10 * n + 1) for n in range(5)], step


def test_the_command_serves_metrics_and_ends_by_a_signal_with_all_applied(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source, port = broker.make_topic("command"), free_port()
    broker.send("command", [*rows(1000, 20), b"{", ("3", None)])
    command = [sys.executable, "-m", "corank", "follow", "items", source, store.address]
    options = ["--dead-letter", str(tmp_path / "letters"), "--metrics", f"127.0.0.1:{port}"]
    home = os.environ | {"HOME": str(tmp_path)}
    process = subprocess.Popen([*command, *options], env=home, stderr=subprocess.PIPE, text=True)

    def metrics() -> dict[str, float]:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}

    eventually(lambda: StoreState.read(store)[1].offsets.get("items/command/0") == 22)
    eventually(lambda: metrics()["corank_follow_messages_total"] == 22)
    figures = metrics()
    assert figures['corank_follow_rows_total{outcome="applied"}'] == 20
    assert figures['corank_follow_rows_total{outcome="removed"}'] == 1
    assert figures['corank_follow_rows_total{outcome="bad"}'] == 1
    eventually(lambda: metrics()['corank_follow_lag{partition="0"}'] == 0)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said.count("\n") == 1 and "partition 0, message 20: neither JSON nor Arrow" in said


def test_followers_of_users_and_of_the_log_end_by_a_signal_with_all_applied(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    log = tmp_path / "shop" / "log"
    log.mkdir(parents=True)
    shop(log.parent).rename(log.parent / "config.yaml")
    users, candidates = broker.make_topic("endusers"), broker.make_topic("endlog")
    broker.send("endusers", [{derived().funnel.manifest.user: 1}])
    broker.send("endlog", [*request(1, 5), *request(2, 15)])
    home = os.environ | {"HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "corank", "follow", *words], env=home, stderr=subprocess.PIPE, text=True
        )
        for words in (["users", users, store.address], ["log", candidates, str(log)])
    ]
    eventually(lambda: StoreState.read(store)[1].offsets.get("users/endusers/0") == 1)
    eventually(lambda: [*log.glob("*.parquet")])
    for process in processes:
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == (None, "")
        assert process.returncode == 0


def test_a_broker_that_is_away_is_waited_for_and_a_new_topic_is_no_old_one(
    store: Store, tmp_path: Path
) -> None:
    with kafka_broker(tmp_path) as own:
        source = own.make_topic("away")
        own.send("away", rows(1000, 5))
        with following_store(ItemSink, source, store.address) as one:
            one.until(lambda: StoreState.read(store)[1].offsets.get("items/away/0") == 5)
            own.kill()
            one.until(lambda: one.said)
            own.start()
            own.make_topic("away")
            own.send("away", rows(1000, 2))
            eventually(lambda: one.failed)
        with pytest.raises(StreamError, match=r"message 5, the next one, .* there: the topic was made anew"):
            one.check()
    assert applied(store) == [*range(1000, 1005)]
