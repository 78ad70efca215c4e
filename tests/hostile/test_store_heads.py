"""A store's head, journal, records and users are hostile input: bounded, and refused by what is wrong with them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from corank.core.errors import StoreError
from corank.serving.http.follower import Follower
from corank.serving.store.base import Store
from corank.serving.store.fetch import catch_up, load_latest
from corank.serving.store.journal import JOURNAL, Change, journal_key, read_journal
from corank.serving.store.live_version import HEAD_BYTES, USERS, StoreState
from corank.serving.store.publish import publish_bundle
from corank.serving.store.record_codec import RecordFormat, to_keys
from corank.serving.store.source import StoreSource
from corank.serving.store.upsert import upsert
from corank.serving.store.users import UserStore
from corank.serving.store.version_parts import PROGRESS, read_progress
from tests.support.shared import derived
from tests.support.stores import item, opened, worths
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with one version and two upserts, whose head is put back after each test."""
    with opened("lmdb", tmp_path_factory.mktemp("published")) as store:
        version = publish_bundle(derived().base / "bundle", store)
        for n in range(2):
            upsert(store, version, derived().funnel, [item(3, 90 + n, worth=n)])
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


def of_version(**now: Any) -> Edit:
    return lambda plain: next(iter(plain["versions"].values())).update(now)


def renamed(plain: dict[str, Any]) -> None:
    (facts,) = plain["versions"].values()
    plain["versions"] = {"../../etc": facts}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(seq=2**62), "seq: Input should be less than"),
        (lambda plain: plain.update(seq=-1), "seq: Input should be greater than"),
        (lambda plain: plain.update(seq="3x"), "seq: Input should be a valid integer"),
        (lambda plain: plain.update(seq=1e300), "seq: "),
        (lambda plain: plain.update(journal_from=5), "journal_from: 5 is not from 1 to 4"),
        (lambda plain: plain.update(journal_from=0), "journal_from: 0 is not from 1 to 4"),
        (lambda plain: plain.update(live="none"), "live: 'none' is not among the versions"),
        (lambda plain: plain.update(live="x" * 5000), "live: 'xxx"),
        (lambda plain: plain.update(versions=[]), "versions: "),
        (lambda plain: plain.update(id="../../x"), "id: String should match pattern"),
        (lambda plain: plain.update(more=1), "unknown key 'more'"),
        (renamed, "'../../etc' is no version's name"),
        (of_version(applied=4), "applied: 4 is later than 3, the last change"),
        (of_version(seq=0), "seq: 0, though the version is live"),
        (of_version(seq=3, applied=1), "applied: 1, though change 3 made the version live"),
        (of_version(base=2, applied=1), "base: 2 is later than applied, 1"),
        (of_version(items=-1), "items: Input should be greater"),
        (of_version(published_at=2**60), "published_at: Input should be less"),
        (of_version(manifest="x"), "manifest: String should match pattern"),
        (of_version(model_version="../" * 5), "model_version: String should match pattern"),
        (of_version(name="x" * 10_000), "name: String should have at most"),
        (of_version(name="\x1b[2J"), "name: String should match pattern"),
        (of_version(record={"crc": [0, "|O8", 1]}), "record.crc.1: String should match pattern"),
        (of_version(record={"crc": [-1, "<u4", 1]}), "record.crc.0: Input should be greater"),
        (
            of_version(record={str(n): [0, "<u4", 1] for n in range(5000)}),
            "record: Dictionary should have at most",
        ),
    ],
)
def test_a_head_that_cannot_be_is_refused_by_what_is_wrong(store: Store, change: Edit, message: str) -> None:
    edit(store, change)
    with pytest.raises(StoreError) as error:
        StoreState.read(store)
    assert str(error.value).startswith(f"{store.address}: its head is not corank's, or of another release: ")
    assert message in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 100_000,
        b'{"versions":' * 100_000,
        b'{"seq": ' + b"9" * 5000 + b"}",
        b"\xff" * 100,
        b"null",
        b"3",
    ],
)
def test_a_head_that_is_no_object_is_refused(store: Store, head: bytes) -> None:
    assert store.swap(store.head(), head)
    with pytest.raises(StoreError, match="its head is not corank's, or of another release"):
        StoreState.read(store)


def test_a_head_that_is_too_long_is_not_parsed(store: Store) -> None:
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
        (b"\xc1", "journal entry 2 is damaged"),
        (msgspec.msgpack.encode({"version": "../x", "at": 0, "before": ""}), "'../x' is no version's name"),
        (msgspec.msgpack.encode({"version": 3, "at": 0}), "Expected `str`"),
        (
            msgspec.msgpack.encode({"version": f"{'0' * 16}-1-{'0' * 8}", "at": 2**60, "before": ""}),
            "1152921504606846976 is no time",
        ),
        (
            msgspec.msgpack.encode(
                {"version": f"{'0' * 16}-1-{'0' * 8}", "at": 0, "before": "", "items": [{"a": 1}]}
            ),
            "an item has no id",
        ),
        (b"\x91" * 100_000, "journal entry 2 is damaged"),
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


@pytest.mark.parametrize("key", [b"", b"i", b"i123", b"i123456789", b"s\xff", b"x12345678"])
def test_a_key_that_is_no_items_is_refused(key: bytes) -> None:
    form = RecordFormat.from_manifest(derived().funnel.manifest)
    with pytest.raises(StoreError, match="is no key of an item"):
        form.decode({key: sealed(form, key)})
    (sound,) = to_keys(pl.Series([0]))
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
    assert UserStore(store).find(2**70) is None


def test_a_users_id_is_not_taken_from_its_columns(store: Store) -> None:
    store.put({USERS: [(key, b'{"id": 7, "age": 3.5}') for key in to_keys(pl.Series([60]))]})
    assert UserStore(store).find(60) == {"age": 3.5}


@pytest.mark.parametrize("note", [b"[]", b"{}", b'["x", 1]', b"nonsense", b"[-5, 0]"])
def test_a_note_of_progress_that_cannot_be_counts_for_nothing(store: Store, note: bytes) -> None:
    store.put({"parts/x": [(PROGRESS, note)]})
    assert read_progress(store, "x")[0] == 0


def test_changes_are_chained_by_what_they_hold() -> None:
    version = f"{'0' * 16}-1-{'0' * 8}"
    first, other = (Change(version=version, at=at, before="") for at in (1, 2))
    assert first.id != other.id and len(first.id) == 16
    later = [Change(version=version, at=3, before=one.id).id for one in (first, other)]
    assert later[0] != later[1]
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Change)
    assert again.id == first.id
