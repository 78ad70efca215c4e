"""Items leave the live version by a change, and come back; offsets of a stream change with the items or users."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from corank.bundle.bundle import Bundle
from corank.bundle.manifest import ItemsAsOf
from corank.core.errors import StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store
from corank_serve.store.fetch import catch_up, fetch_bundle, load_latest
from corank_serve.store.journal import JOURNAL, ItemRow, journal_key, read_journal, read_log
from corank_serve.store.live_version import USERS, OffsetsMovedError, StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import RecordFormat, to_keys
from corank_serve.store.retention import list_versions
from corank_serve.store.upsert import change_items, encode_records, encode_removals, upsert
from corank_serve.store.users import UserStore, change_users, encode_user
from tests.support.shared import derived
from tests.support.stores import item, served

pytestmark = pytest.mark.slow


def change(store: Store, *items: dict[str, Any], removed: Sequence[int] = (), **more: Any) -> int:
    """Put items into the first bundle, which is live, and remove others."""
    funnel = derived().funnel
    rows = [*map(ItemRow.of, items)]
    records = (encode_records(funnel, rows) if rows else []) + encode_removals(funnel, removed)
    return change_items(store, funnel, rows, records, None, removed, **more).seq


def known(funnel: object, *ids: int) -> list[bool]:
    """Whether items are known, to a look-up by number and to a look-up by a column."""
    items = funnel.request_encoder.items  # type: ignore[attr-defined]
    numbers = (items.find_numbers(np.array(ids)) >= 0).tolist()
    assert (items.find(pl.Series(ids)) >= 0).tolist() == numbers
    return [bool(one) for one in numbers]


def test_a_removed_item_is_unknown_until_it_is_put_in_again(
    first: Path, store: Store, tmp_path: Path
) -> None:
    version, funnel = publish_bundle(first, store), derived().funnel
    upsert(store, funnel, [item(4, 98), item(5, 99)])
    before = served(store, tmp_path / "cache")
    change(store, item(4, worth=2.0), removed=[3, 98, 12345])
    # a reader that starts now, and one that follows
    for live in (served(store, tmp_path / "cache"), catch_up(store, version, before)):
        assert known(live, 3, 98, 99, 4, 12345) == [False, False, True, True, False]
        answer = live.rank(
            {"user": {"id": 1}, "time": 0, "candidates": [{"id": n, "bid": 1.0} for n in (3, 4, 98)]}
        )
        assert answer["unknown"] == [3, 98]
        assert live.describe_item("3") is None
    assert list_versions(store)[0].changed == 5
    assert (read_log(store)[-1].items, read_log(store)[-1].removed_items) == (1, 3)
    upsert(store, funnel, [item(3), item(4, 98)])
    assert known(served(store, tmp_path / "cache"), 3, 98, 12345) == [True, True, False]
    again = catch_up(store, version, before)
    assert known(again, 3, 98) == [True, True]
    assert list_versions(store)[0].changed == 5
    assert publish_bundle(first, store) == version  # which finds nothing damaged


def test_a_new_version_has_later_removals_and_its_table_others(
    first: Path, second: Path, store: Store, tmp_path: Path
) -> None:
    said = list[str]()
    publish_bundle(first, store)
    change(store, item(4, 98), removed=[3])
    other = publish_bundle(second, store, said.append)
    live = served(store, tmp_path / "cache")
    assert known(live, 3, 98, 4) == [False, True, True]
    assert said[1:] == [f"1 item were removed since {other} was read: removed again: 3"]
    publish_bundle(first, store)
    assert known(served(store, tmp_path / "cache"), 3, 98, 4) == [False, True, True]


def test_a_table_that_is_newer_than_a_removal_decides(
    first: Path, second: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_bundle(first, store)
    funnel = derived().funnel
    upsert(store, funnel, [item(4, 98)])
    change(store, removed=[3, 98])
    as_of = ItemsAsOf(change=3)
    opened = Bundle.open

    def read(path: Path, *more: Any) -> Bundle:
        bundle = opened(path, *more)
        manifest = bundle.manifest.model_copy(update={"items_as_of": as_of})
        return Bundle(bundle.folder, manifest)

    monkeypatch.setattr("corank_serve.store.publish.Bundle.open", read)
    said = list[str]()
    publish_bundle(second, store, said.append)
    assert said == []
    assert known(served(store, tmp_path / "cache"), 3, 98) == [True, False]


def test_offsets_change_with_items_and_users_alone(first: Path, store: Store) -> None:
    publish_bundle(first, store)
    moves = {"items/shop/0": (None, 7), "items/shop/1": (None, 2)}
    change(store, item(4, 98), moves=moves)
    with pytest.raises(OffsetsMovedError, match="items/shop/0"):
        change(store, item(4, 99), moves=moves)
    assert list_versions(store)[0].changed == 1
    keys = to_keys(pl.Series([1, 2]))
    change_users(store, [(keys[0], encode_user({"age": 3}))], [], {"users/shop/0": (None, 5)})
    with pytest.raises(OffsetsMovedError):
        change_users(store, [(keys[1], b"{}")], [keys[0]], {"users/shop/0": (None, 6)})
    users = UserStore(store)
    assert (users.find(1), users.find(2), store.count(USERS)) == ({"age": 3}, None, 1)
    change_users(store, [(keys[1], b"{}")], [keys[0]], {"users/shop/0": (5, 6)})
    assert (users.find(1), users.find(2)) == (None, {})
    assert StoreState.read(store)[1].offsets == {"items/shop/0": 7, "items/shop/1": 2, "users/shop/0": 6}
    publish_bundle(first, store)
    assert StoreState.read(store)[1].offsets["items/shop/0"] == 7


@pytest.mark.parametrize("key", [b"x", b"i123", b"s\xff", b"stext"])
def test_an_odd_key_of_a_removed_item_is_refused(
    first: Path, local: Store, tmp_path: Path, key: bytes
) -> None:
    version = publish_bundle(first, local)
    change(local, item(4, 98), removed=[3])
    form = RecordFormat.from_manifest(derived().funnel.manifest)
    bare = Funnel(fetch_bundle(local, version, tmp_path / "cache"))
    local.put({f"changed/{version}": [(key, form.removal(key))]})
    with pytest.raises(StoreError, match=r"no key of an item|mix whole numbers and text"):
        load_latest(local, version, bare)


def test_an_odd_id_of_a_removed_item_is_refused(first: Path, local: Store) -> None:
    publish_bundle(first, local)
    seq = change(local, removed=[3])
    (raw,) = local.get(JOURNAL, [journal_key(seq)])
    assert raw is not None
    plain = msgspec.msgpack.decode(raw)
    for odd in ([2**64 - 1], [None], [1.5], "text", 5):
        local.put({JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(plain | {"removed": odd}))]})
        with pytest.raises(StoreError, match="journal entry 2 is damaged"):
            list(read_journal(local, 0, seq))
