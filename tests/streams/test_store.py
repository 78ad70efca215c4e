"""Items and users of a topic reach a store, each once, whoever else writes, and bad rows do not stop the others."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corank.core.errors import StreamError
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_continual.streams.store import ItemSink, UserSink
from corank_serve.store.base import Store, open_store
from corank_serve.store.journal import read_journal, read_log
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.users import UserStore
from tests.support.bundle_versions import variant
from tests.support.following import following_store
from tests.support.kafka_broker import Broker, to_arrow
from tests.support.shared import derived
from tests.support.stores import item, served
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with a live version."""
    monkeypatch.setattr("corank_continual.follow.CACHE", tmp_path / "cache")
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as opened:
        publish_bundle(derived().base / "bundle", opened)
        yield opened


def row(like: int, id_: int, **columns: Any) -> dict[str, Any]:
    """A row of the table of items."""
    given = item(like, id_, **columns)
    return {"item_id": given.pop("id")} | given


def offset(store: Store, name: str) -> int:
    """Where the store is."""
    return StoreState.read(store)[1].offsets.get(name, 0)


def is_known(funnel: Funnel, id_: int) -> bool:
    return funnel.describe_item(str(id_)) is not None


def test_rows_of_either_form_reach_the_store_and_tombstones_remove(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source = broker.make_topic("forms")
    broker.send("forms", [("98", row(4, 98)), json.dumps([row(5, 99), row(5, 97)]), ("3", None)])
    broker.send("forms", [to_arrow([row(6, 96, worth=2.5), row(6, 95)]), ("97", None), row(4, 98, worth=3.5)])
    with following_store(ItemSink, source, store.address) as one:
        one.until(lambda: offset(store, "items/forms/0") == 6)
    live = served(store, tmp_path / "fetched")
    assert {id_: is_known(live, id_) for id_ in (98, 99, 97, 3, 96, 95, 4)} == {
        98: True, 99: True, 97: False, 3: False, 96: True, 95: True, 4: True
    }  # fmt: skip
    assert live.describe_item("98")["columns"]["worth"] == 3.5  # type: ignore[index]
    assert live.describe_item("96")["columns"]["worth"] == 2.5  # type: ignore[index]
    # a second follower has nothing to do
    before = store.head()
    broker.send("forms", [row(4, 94)])
    with following_store(ItemSink, source, store.address, "another group") as one:
        one.until(lambda: offset(store, "items/forms/0") == 7)
    (change,) = (change for seq, change in read_journal(store, read_log(store)[-2].change, 10**6))
    assert [one["id"] for one in change.items] == [94] and store.head() != before


def test_columns_that_a_version_does_not_know_wait_for_one_that_does(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source = broker.make_topic("columns")
    broker.send("columns", [row(4, 98, later="x")])
    with following_store(ItemSink, source, store.address) as one:
        one.until(lambda: offset(store, "items/columns/0") == 1)
    assert is_known(served(store, tmp_path / "fetched"), 98)
    (change,) = (change for _, change in read_journal(store, 1, 2))
    assert change.items[0]["later"] == "x"


def test_a_column_called_id_is_one_like_others(broker: Broker, store: Store, tmp_path: Path) -> None:
    """The config's column of items identifies; a new version takes what came, and the others are what they were."""
    source = broker.make_topic("called_id")
    before = served(store, tmp_path / "fetched").describe_item("9")
    rows = [row(4, 97, worth=7.5) | {"id": None}, row(4, 98) | {"id": 9}, row(4, 99) | {"id": "text"}]
    broker.send("called_id", [*rows, row(4, 96)])
    with following_store(ItemSink, source, store.address) as one:
        one.until(lambda: offset(store, "items/called_id/0") == 4)
    after = served(store, tmp_path / "fetched").describe_item("9")
    assert after is not None and before is not None and after["columns"] == before["columns"]
    publish_bundle(variant(derived().base / "bundle", tmp_path / "second", 2), store)
    live = served(store, tmp_path / "fetched")
    assert all(is_known(live, one["item_id"]) for one in rows)
    assert live.describe_item("97")["columns"]["worth"] == 7.5  # type: ignore[index]
    (change,) = (change for _, change in read_journal(store, 1, 2))
    assert {row.id: row.columns.get("id", "none") for row in change.rows()} == {
        97: None, 98: 9, 99: "text", 96: "none"
    }  # fmt: skip


BAD = (
    b"{",
    b'"text"',
    b"\xff\xff\xff\xffnothing",
    {"item_id": "text"},
    {"other": 1},
    {"item_id": 2**63},
    row(4, 90, worth="high"),
    row(4, 90, unknown=2**70),
    json.dumps(row(4, 90)).replace("{", '{"deep": ' + "[" * 900 + "]" * 900 + ", ", 1),
    "[" * 900 + "]" * 900,
    ("text", None),
    ("9_8", None),
    (" 98 ", None),
    ("098", None),
)


def test_bad_rows_are_put_aside_with_their_errors_and_the_rest_goes_on(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    source = broker.make_topic("bad")
    good = [row(4, 100 + n) for n in range(len(BAD))]
    good[0]["item_id"] = 90  # of which a bad row follows
    broker.send("bad", [one for pair in zip(good, BAD, strict=True) for one in pair])
    letters = tmp_path / "letters.jsonl"
    with following_store(ItemSink, source, store.address, dead_letter=letters) as one:
        one.until(lambda: offset(store, "items/bad/0") == 2 * len(BAD))
    live = served(store, tmp_path / "fetched")
    assert all(is_known(live, one["item_id"]) for one in good)
    assert live.describe_item("90")["columns"]["worth"] == pytest.approx(good[0]["worth"])  # type: ignore[index]
    lines = sorted(map(json.loads, letters.read_text().splitlines()), key=lambda line: line["offset"])
    assert [line["offset"] for line in lines] == [2 * n + 1 for n in range(len(BAD))]
    assert all(line["error"] and (line.get("row") or line["value"] or line["key"]) for line in lines)
    assert letters.stat().st_mode & 0o077 == 0
    assert len(one.said) == 5


def test_a_bad_row_ends_all_unless_it_can_be_put_aside(broker: Broker, store: Store) -> None:
    source = broker.make_topic("strict")
    broker.send("strict", [row(4, 100), b"{"])
    with following_store(ItemSink, source, store.address) as one:
        eventually(lambda: one.failed)
    with pytest.raises(StreamError, match=r"partition 0, message 1: neither JSON .* --dead-letter FILE"):
        one.check()
    assert offset(store, "items/strict/0") == 0


def test_a_topic_takes_dead_letters(broker: Broker, store: Store) -> None:
    source, letters = broker.make_topic("poison"), broker.make_topic("letters")
    broker.send("poison", [("k", b"{"), row(4, 100), {"item_id": None, "a": 1}])
    with following_store(ItemSink, source, store.address, dead_letter=letters):
        first, second = broker.receive("letters", 2)
    assert (first.key(), first.value()) == (b"k", b"{")
    assert json.loads(second.value()) == {"item_id": None, "a": 1}
    assert dict(second.headers())["offset"] == b"2" and b"whole number" in dict(second.headers())["error"]


def test_a_follower_waits_for_the_broker_of_its_dead_letters(
    broker: Broker, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corank_continual.streams.messages.DELIVERY_SECONDS", 1.0)
    source, other = broker.make_topic("patient"), Broker(tmp_path)
    other.start()
    try:
        letters = other.make_topic("letters")
        with following_store(ItemSink, source, store.address, dead_letter=letters) as one:
            broker.send("patient", [row(4, 100)])
            one.until(lambda: offset(store, "items/patient/0") == 1)
            with other.away():
                broker.send("patient", [b"{", row(4, 101)])
                one.until(lambda: any("trying again" in line for line in one.said))
                assert offset(store, "items/patient/0") == 1
            one.until(lambda: offset(store, "items/patient/0") == 3)
        (first, *_), told = other.receive("letters", 1), [line for line in one.said if "again" in line]
        assert first.value() == b"{"
        assert f"--dead-letter {letters}: " in told[0] and told[-1] == "the broker answers again"
    finally:
        other.kill()


def test_items_go_to_the_version_that_is_live(broker: Broker, store: Store, tmp_path: Path) -> None:
    source = broker.make_topic("versions")
    second = variant(derived().base / "bundle", tmp_path / "second", 2)
    with following_store(ItemSink, source, store.address) as one:
        broker.send("versions", [row(4, 98)])
        one.until(lambda: offset(store, "items/versions/0") == 1)
        version = publish_bundle(second, store)
        broker.send("versions", [row(4, 99)])
        one.until(lambda: offset(store, "items/versions/0") == 2)
    live = served(store, tmp_path / "fetched")
    assert live.manifest.content == version and is_known(live, 98) and is_known(live, 99)


def test_users_come_change_and_go(broker: Broker, store: Store, tmp_path: Path) -> None:
    manifest = derived().funnel.manifest
    source, key = broker.make_topic("users"), manifest.user
    column = sorted(manifest.request_columns.user)[0]
    long = {key: 4, column: {"deep": {"er": 1}}}
    rows = [{key: 1, column: 1}, {key: 2, column: 2, "unread": 1}, {key: 1, column: 3}, long, {key: 5}]
    broker.send("users", [*rows, ("2", None)])
    letters = tmp_path / "letters.jsonl"
    with following_store(UserSink, source, store.address, dead_letter=letters) as one:
        one.until(lambda: offset(store, "users/users/0") == 6)
    users = UserStore(store)
    assert [users.find(n) for n in (1, 2, 4, 5)] == [{column: 3}, None, None, {}]
    assert json.loads(letters.read_text())["offset"] == 3


def test_users_whose_requests_would_be_refused_are_bad_rows(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    funnel = derived().funnel
    source, key = broker.make_topic("odd_users"), funnel.manifest.user
    history = [{"id": item, "time": 1_700_000_000_000 + item} for item in (1, 2)]
    good = {key: 1, "history_0": history}
    odd: list[dict[str, Any]] = [
        {"history_0": "x"},
        {"history_1": [1.5]},
        {"joined": [1]},
        {"user_0": "\ud800"},
    ]
    broker.send("odd_users", [good, *({key: 1} | row for row in odd)])
    letters = tmp_path / "letters.jsonl"
    with following_store(UserSink, source, store.address, dead_letter=letters) as one:
        one.until(lambda: offset(store, "users/odd_users/0") == 1 + len(odd))
    found = UserStore(store).find(1)
    assert found == {"history_0": history}
    funnel.prepare(Request(user={"id": 1, **found}))
    lines = sorted(map(json.loads, letters.read_text().splitlines()), key=lambda line: line["offset"])
    assert [line["offset"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["error"] == "user.history_0: expected a list of item ids, the newest last; received 'x'"
