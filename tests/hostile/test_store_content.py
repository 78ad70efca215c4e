"""What a store holds is hostile: heads, journals, records and users are bounded, and refused by what is wrong."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from corank.bundle.item_layers import ItemLayer
from corank.core.errors import StoreError
from corank.core.ragged import Ragged
from corank.core.stored_matrix import StoredMatrix
from corank.funnel.funnel import Funnel
from corank_serve.http.follower import Follower
from corank_serve.store.base import Store
from corank_serve.store.fetch import catch_up, fetch_bundle, load_latest
from corank_serve.store.journal import JOURNAL, Change, journal_key, read_journal
from corank_serve.store.live_version import HEAD_BYTES, USERS, StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import RecordFormat, to_keys
from corank_serve.store.source import StoreSource
from corank_serve.store.upsert import changed_records, upsert
from corank_serve.store.users import UserStore
from tests.support.bundle_versions import variant
from tests.support.served_logs import VALUES
from tests.support.shared import derived
from tests.support.stores import item, opened, worths
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


Edit = Callable[[dict[str, Any]], object]
VERSION = f"{'0' * 16}-1-{'0' * 8}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with one version and two upserts, whose head is put back after each test."""
    with opened("lmdb", tmp_path_factory.mktemp("published")) as store:
        publish_bundle(derived().base / "bundle", store)
        for n in range(2):
            upsert(store, derived().funnel, [item(3, 90 + n, worth=n)])
        yield store


@pytest.fixture
def store(published: Store) -> Any:
    before, journal = published.head(), [pair for some in published.scan(JOURNAL) for pair in some]
    yield published
    assert published.swap(published.head(), before or b"", {JOURNAL: journal})


def edit(store: Store, change: Edit) -> None:
    """Change the head as JSON."""
    raw = store.head()
    assert raw is not None
    plain = json.loads(raw)
    change(plain)
    assert store.swap(raw, json.dumps(plain).encode())


def of_head(**now: Any) -> Edit:
    return lambda plain: plain.update(now)


def of_version(**now: Any) -> Edit:
    return lambda plain: next(iter(plain["versions"].values())).update(now)


def renamed(plain: dict[str, Any]) -> None:
    (facts,) = plain["versions"].values()
    plain["versions"] = {"../../etc": facts}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_head(seq=2**62), "seq: Input should be less than"),
        (of_head(seq=-1), "seq: Input should be greater than"),
        (of_head(seq="3x"), "seq: Input should be a valid integer"),
        (of_head(journal_from=5), "journal_from: 5 is not from 1 to 4"),
        (of_head(journal_from=0), "journal_from: 0 is not from 1 to 4"),
        (of_head(live="x" * 5000), "live: 'xxx"),
        (of_head(versions=[]), "versions: "),
        (of_head(id="../../x"), "id: String should match pattern"),
        (of_head(more=1), "unknown key 'more'"),
        (renamed, "'../../etc' is no version's name"),
        (of_version(applied=4), "applied: 4 is later than 3, the last change"),
        (of_version(seq=0), "seq: 0, though the version is live"),
        (of_version(seq=3, applied=1), "applied: 1, though change 3 made the version live"),
        (of_version(base=2, applied=1), "base: 2 is later than applied, 1"),
        (of_version(items=-1), "items: Input should be greater"),
        (of_version(published_at=2**60), "published_at: Input should be less"),
        (of_version(manifest="x"), "manifest: String should match pattern"),
        (of_version(name="x" * 10_000), "name: String should have at most"),
        (of_version(name="\x1b[2J"), "name: String should match pattern"),
        (of_version(record={"crc": [0, "|O8", 1]}), "record.crc.1: String should match pattern"),
        (of_version(record={str(n): [0, "<u4", 1] for n in range(5000)}), "record: Dictionary should have"),
    ],
)
def test_a_head_that_cannot_be_is_refused_by_what_is_wrong(store: Store, change: Edit, message: str) -> None:
    edit(store, change)
    with pytest.raises(StoreError) as error:
        StoreState.read(store)
    assert str(error.value).startswith(f"{store.address}: its head is not corank's, or of another release: ")
    assert message in str(error.value) and len(str(error.value)) < 1000


def test_a_head_that_is_no_object_or_too_long_is_refused(store: Store) -> None:
    for head in (b"[" * 100_000, b'{"versions":' * 100_000, b'{"seq": ' + b"9" * 5000 + b"}", b"\xff", b"3"):
        assert store.swap(store.head(), head)
        with pytest.raises(StoreError, match="its head is not corank's, or of another release"):
            StoreState.read(store)
    assert store.swap(store.head(), b'{"live": "' + b"x" * HEAD_BYTES + b'"}')
    with pytest.raises(StoreError, match=r"it has 4,194,316 bytes, and 4,194,304 at most are written"):
        StoreState.read(store)


def test_a_head_that_claims_changes_that_are_not_there_costs_nothing(store: Store, tmp_path: Path) -> None:
    """All is read anew, from the version as a whole; nobody counts to the claimed number."""
    edit(store, lambda plain: plain.update(seq=2**52, id="0" * 16))
    live = StoreState.read(store)[1].require_live(store)
    funnel = load_latest(store, live, derived().funnel)
    assert funnel.manifest.items_seq == 2**52 and worths(funnel)[91] == 1
    assert [seq for seq, _ in read_journal(store, 0, 2**52)] == [1, 2, 3]
    assert catch_up(store, live, derived().funnel.with_changes(1, "")).manifest.items_seq == 2**52


def entry(**changes: Any) -> bytes:
    """A journal's entry."""
    return msgspec.msgpack.encode({"version": VERSION, "at": 0, "before": ""} | changes)


def test_a_follower_of_a_wild_head_stops(store: Store, tmp_path: Path) -> None:
    follower = Follower(StoreSource(store, tmp_path / "cache"), every=0.01)
    follower.start()
    edit(store, lambda plain: plain.update(seq=2**62))
    assert "its head is not corank's" in eventually(lambda: follower.trouble or "")
    edit(store, lambda plain: plain.update(seq=2**52, id="0" * 16))
    stopped = threading.Thread(target=follower.stop)
    stopped.start()
    stopped.join(PATIENCE)
    assert not stopped.is_alive()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (entry(version="../x"), "'../x' is no version's name"),
        (entry(version=3), "Expected `str`"),
        (entry(at=2**60), "1152921504606846976 is no time"),
        (b"\xc1", ""),
        (b"\x91" * 100_000, ""),
        (bytes((1 << 26) + 1), "it has 67,108,865 bytes, and 67,108,864 at most are written"),
    ],
)
def test_a_journal_entry_that_cannot_be_is_refused(store: Store, raw: bytes, message: str) -> None:
    store.put({JOURNAL: [(journal_key(2), raw)]})
    with pytest.raises(StoreError, match="journal entry 2 is damaged") as error:
        list(read_journal(store, 0, 3))
    assert message in str(error.value)


def sealed(form: RecordFormat, key: bytes, **fields: Any) -> bytes:
    """A record of an item as its maker would seal it, some fields otherwise."""
    layer = derived().funnel.request_encoder.items.layers[0]
    ((_, record),) = form.encode(layer, np.array([0]))
    fixed = np.frombuffer(record[: form.dtype.itemsize], dtype=form.dtype).copy()
    for name, value in fields.items():
        fixed[name] = value
    body = fixed.tobytes()[4:] + record[form.dtype.itemsize :]
    return form._checksum(key, body) + body


def test_lists_of_lengths_that_cannot_be_are_refused() -> None:
    form, (key,) = RecordFormat.from_manifest(derived().funnel.manifest), to_keys(pl.Series([0]))
    lengths = np.frombuffer(sealed(form, key)[: form.dtype.itemsize], dtype=form.dtype)["lengths"][0].copy()
    assert len(lengths) >= 2 and form.decode({key: sealed(form, key)})
    total = int(lengths[:2].sum())
    for first, second in ((-1, total + 1), (total + 1, -1), (2**31 - 1, total), (total + 1, 0)):
        wrong = lengths.copy()
        wrong[:2] = first, second
        with pytest.raises(StoreError, match="the records are not of the form that this release writes"):
            form.decode({key: sealed(form, key, lengths=wrong)})


def test_a_key_that_is_no_items_is_refused() -> None:
    form = RecordFormat.from_manifest(derived().funnel.manifest)
    (sound,) = to_keys(pl.Series([0]))
    for key in (b"", b"i", b"i123", b"i123456789", b"s\xff", b"x12345678"):
        with pytest.raises(StoreError, match="is no key of an item"):
            form.decode({key: sealed(form, key)})
        with pytest.raises(StoreError, match=r"is no key of an item|mix whole numbers and text"):
            form.decode({key: sealed(form, key), sound: sealed(form, sound)})


def test_changed_items_of_another_type_of_id_are_refused(store: Store) -> None:
    live = StoreState.read(store)[1].require_live(store)
    form = RecordFormat.from_manifest(derived().funnel.manifest)
    keys = [key for pairs in store.scan(f"changed/{live}") for key, _ in pairs]
    records = [(key, store.get(f"changed/{live}", [key])[0] or b"") for key in keys]
    text = [(b"sx%d" % n, sealed(form, b"sx%d" % n)) for n in range(len(keys))]
    assert store.swap(store.head(), store.head() or b"", {f"changed/{live}": text}, {f"changed/{live}": keys})
    with pytest.raises(StoreError, match="of another type than the bundle's"):
        load_latest(store, live, derived().funnel)
    gone = {f"changed/{live}": [key for key, _ in text]}
    assert store.swap(store.head(), store.head() or b"", {f"changed/{live}": records}, gone)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "Expected `object`"),
        (b"nonsense", "malformed"),
        (b'{"age": {"a": {"b": 1}}}', "got `object`"),
        (b'{"age": [[1]]}', "Expected"),
        (b'{"age": 1' + b"0" * 30 + b"}", "Expected `int`"),
        (b"[" * 50_000, ""),
        (b'"' + b"x" * (1 << 20) + b'"', "1,048,578 bytes, 1,048,576 at most are read"),
    ],
)
def test_a_user_that_cannot_be_is_refused(store: Store, raw: bytes, message: str) -> None:
    store.put({USERS: [(key, raw) for key in to_keys(pl.Series([60]))]})
    with pytest.raises(StoreError, match="the stored columns of user 60 cannot be used") as error:
        UserStore(store).find(60)
    assert message in str(error.value)


def test_a_users_id_is_not_taken_from_its_columns_and_one_that_no_store_can_hold_is_no_user(
    store: Store,
) -> None:
    store.put({USERS: [(key, b'{"id": 7, "age": 3.5}') for key in to_keys(pl.Series([60]))]})
    assert UserStore(store).find(60) == {"age": 3.5}
    for none in (2**64, -(2**70), [1], None, True):  # no store can hold it: its look-up is no failure
        assert UserStore(store).find(none) is None


def test_changes_are_chained_by_what_they_hold() -> None:
    first, other = (Change(version=VERSION, at=at, before="") for at in (1, 2))
    assert first.id != other.id and len(first.id) == 16
    later = [Change(version=VERSION, at=3, before=one.id).id for one in (first, other)]
    assert later[0] != later[1]
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Change)
    assert again.id == first.id


ODD: list[Any] = [
    *VALUES,
    *([[1], 2], [None], [{}], {"a": [1]}, b"\xff", float("nan"), float("inf"), [[[]]], ["x", 1.5], "\ud800"),
    *([1.5, 2**64 - 1], [2**64 - 1], [2**70], 10**400, [float("nan")]),
]


def encode(*items: dict[str, Any]) -> tuple[set[bytes], list[str]]:
    """Encode a journal's items for the bundle of `derived`: the keys of those that it takes, and what is said."""
    said: list[str] = []
    change = Change(version="another", at=0, items=list(items), before="")
    return set(changed_records(derived().funnel, "live", change, said.append)), said


def test_an_odd_item_of_the_journal_is_told_and_left_out_alone() -> None:
    odd, sound = (set(to_keys(pl.Series([id_]))) for id_ in (98, 99))
    for column, value in product(derived().funnel.request_encoder.item_columns, ODD):
        keys, said = encode(item(3, 98, **{column: value}), item(4, 99))
        if said:
            assert keys == sound and said[0].startswith("item 98 is left out: ")
        else:
            assert keys == odd | sound
    none: list[dict[str, Any]] = [{"worth": 1.0}, {"id": None}, {"id": [1]}]
    keys, said = encode(*none, item(4, 99))
    assert keys == sound and len(said) == 3
    assert all(" has no id, and is left out; put it in again: {" in line for line in said)
    _, said = encode(item(3, 98, worth=1e39))
    assert said == ["item 98 is left out: column 'worth': 1e+39 is too large for a 32-bit float"]


def test_a_version_is_published_over_a_journal_of_odd_items(tmp_path: Path) -> None:
    first = derived().base / "bundle"
    with opened("lmdb", tmp_path) as store:
        publish_bundle(first, store)
        seq = upsert(store, derived().funnel, [item(3, 98), item(4, 99)]).seq
        (raw,) = store.get(JOURNAL, [journal_key(seq)])
        assert raw is not None
        change = msgspec.msgpack.decode(raw, type=Change)
        odd = msgspec.structs.replace(change, items=[item(3, 98, worth=[[1], {}]), item(4, 99)])
        store.put({JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(odd))]})
        said: list[str] = []
        live = publish_bundle(variant(first, tmp_path / "second", 2), store, said.append)
        assert said[0].startswith("item 98 is left out: ")
        funnel = load_latest(store, live, Funnel(fetch_bundle(store, live, tmp_path / "cache")))
        assert worths(funnel).keys() == {*range(16), 99}


def altered(layer: ItemLayer, **changes: Any) -> ItemLayer:
    """A layer with other rows."""
    return replace(layer, records=replace(layer.records, rows=replace(layer.records.rows, **changes)))


def _code(layer: ItemLayer, code: int) -> ItemLayer:
    return altered(layer, ids=np.full_like(layer.records.rows.ids, code))


def _listed(layer: ItemLayer, code: int) -> ItemLayer:
    one, codes = np.ones(1, np.int32), np.full(1, code, np.int32)
    return altered(layer, lists=tuple(Ragged(np.arange(1), one, codes) for _ in layer.records.rows.lists))


def _number(layer: ItemLayer, number: float) -> ItemLayer:
    return altered(layer, numbers=np.full_like(layer.records.rows.numbers, number))


def _vector(layer: ItemLayer, number: float) -> ItemLayer:
    parts = {n: StoredMatrix(np.full_like(v.values, number)) for n, v in layer.parts.items()}
    return replace(layer, parts=parts)


@pytest.mark.parametrize(
    ("alter", "value", "reason"),
    [
        (_code, 10**6, "codes from 1000000 to 1000000; the table has "),
        (_listed, -1, "codes from -1 to -1; the table has "),
        (_number, np.nan, "holds an infinity or NaN"),
        (_vector, np.inf, "holds an infinity or NaN"),
    ],
)
def test_an_intact_record_that_fits_no_table_is_refused_by_its_item(
    tmp_path: Path, alter: Callable[[ItemLayer, Any], ItemLayer], value: Any, reason: str
) -> None:
    """Whoever can write to the store can compute checksums."""
    funnel = derived().funnel
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(derived().base / "bundle", store)
        source = StoreSource(store, tmp_path / "cache")
        served = source.load_newer(None)
        seq = upsert(store, funnel, [item(n, 90 + n) for n in range(5)]).seq
        layer = funnel.request_encoder.encode_items([93], [{k: v for k, v in item(3).items() if k != "id"}])
        form = RecordFormat.from_manifest(funnel.manifest)
        forged = dict(form.encode(alter(layer, value), np.arange(1)))
        store.put({f"changed/{version}": [*forged.items()]})
        with pytest.raises(StoreError, match=f"item 93: .*{reason}"):
            StoreSource(store, tmp_path / "cache").load_newer(None)
        (raw,) = store.get(JOURNAL, [journal_key(seq)])
        assert raw is not None and served is not None
        change = msgspec.msgpack.decode(raw, type=Change)
        records = [*(dict(change.records) | forged).items()]
        entry = msgspec.msgpack.encode(msgspec.structs.replace(change, records=records))
        store.put({JOURNAL: [(journal_key(seq), entry)]})
        with pytest.raises(StoreError, match=f"item 93: .*{reason}"):
            source.load_newer(served)
