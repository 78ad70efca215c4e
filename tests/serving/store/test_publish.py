"""Publishing is whole or not at all, whoever stops it, breaks it or comes between."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from corank.bundle.bundle import Bundle
from corank.core.errors import RequestError, StoreError
from corank.core.time import now_ms
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.store.base import Pairs, Store
from corank_serve.store.fetch import catch_up, fetch_bundle
from corank_serve.store.journal import JOURNAL, LOG, ItemRow, journal_key, read_journal, read_log
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import _refuse_another, publish_bundle
from corank_serve.store.record_codec import RecordFormat
from corank_serve.store.retention import list_versions, roll_back_store
from corank_serve.store.upsert import VersionChangedError, change_items, encode_records, upsert
from corank_serve.store.version_parts import encode_manifest
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.shared import derived
from tests.support.stores import (
    Between,
    answers,
    item,
    opened,
    records,
    requests,
    served,
    worths,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 16 items in six blocks, the parts in several writes."""
    set_blocks(monkeypatch)


def set_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("corank_serve.store.publish.BLOCK", 3)
    patch.setattr("corank_serve.store.version_parts.CHUNK", 1 << 13)


def content(store: Store) -> dict[str, dict[bytes, bytes]]:
    """Everything but the head."""
    return {table: {k: v for pairs in store.scan(table) for k, v in pairs} for table in store.tables()}


# A bundle goes live


def test_a_bundle_goes_live(first: Path, second: Path, store: Store) -> None:
    before, said = now_ms(), list[str]()
    version = publish_bundle(first, store, said.append)
    manifest, (_, head) = Bundle.open(first).manifest, StoreState.read(store)
    facts = head.versions[version]
    assert (head.live, head.seq, facts.seq, said) == (version, 1, 1, [])
    assert (facts.name, facts.model_version) == ("random", manifest.model_version)
    assert (facts.items, facts.base, facts.changed) == (16, 0, 0)
    assert before <= facts.published_at <= now_ms()
    assert facts.record == {k: tuple(v) for k, v in RecordFormat.from_manifest(manifest).fields.items()}
    (one,) = list_versions(store)
    assert (one.version, one.live, one.records, one.changed) == (version, True, 16, 0)

    other = publish_bundle(second, store)
    _, head = StoreState.read(store)
    assert (head.live, head.seq, list(head.versions)) == (other, 2, [version, other])
    assert [(one.version, one.live) for one in list_versions(store)] == [(version, False), (other, True)]
    assert [(seq, change.version) for seq, change in read_journal(store, 0, 2)] == [(1, version), (2, other)]


# Items come


def test_items_come_and_the_latest_wins(first: Path, store: Store, tmp_path: Path) -> None:
    publish_bundle(first, store)
    funnel = derived().funnel
    assert upsert(store, funnel, [item(3, worth=1.5), item(4, 99)]).seq == 2
    assert upsert(store, funnel, [item(5, 99, worth=2.5)]).seq == 3
    live = served(store, tmp_path / "cache")
    assert live.manifest.items_seq == 3
    assert worths(live) == worths(funnel) | {3: 1.5, 99: 2.5}
    assert list_versions(store)[0].changed == 2
    ours, theirs = live.describe_item("99"), live.describe_item("5")
    assert ours is not None and theirs is not None and ours["newer"] and not theirs["newer"]
    assert answers(live, [99]) != answers(live)


def test_an_item_comes_with_its_vectors(first: Path, local: Store, tmp_path: Path) -> None:
    """A store serves it as the bundle encodes the same columns in a request."""
    publish_bundle(first, local)
    funnel = derived().funnel
    columns = {name: value for name, value in item(5).items() if name != "id"}
    columns |= {"item_3": [0.5, -1.0, 2.0, 0.0, 0.25, 3.0, -0.5, 1.0], "item_4": [3.0, 0.1, -7.0]}
    upsert(local, funnel, [{"id": 99} | columns, {"id": 98} | columns | {"item_4": None}])
    live = served(local, tmp_path / "cache")
    asked = requests()[0]
    described = [{"id": 99, "bid": 1.0} | columns, {"id": 98, "bid": 1.0} | columns | {"item_4": None}]
    expected = funnel.logits(Request.parse(asked | {"candidates": described}))
    scores = live.logits(Request.parse(asked | {"candidates": [{"id": n, "bid": 1.0} for n in (99, 98)]}))
    for stage, labels in expected.items():
        for label, logits in labels.items():
            np.testing.assert_allclose(scores[stage][label], logits, atol=1e-5)
            assert abs(logits[0] - logits[1]) > 1e-4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"id": 3}, {"id": 99, "item_7": 1}],
            r"99: the bundle knows no 'item_7' here; did you mean 'item_\d'",
        ),
        ([{"id": 3}, {"id": "99"}], "items: 'id' mixes types"),
        ([{"id": 3}, {"id": 99, "item_1": "dear"}], "item_1"),
        ([{"id": 3}, {"id": 99, "item_4": [1.0]}], r"'item_4': expected 3 numbers"),
    ],
)
def test_items_that_are_refused_leave_no_trace(
    first: Path, local: Store, rows: list[dict[str, Any]], message: str
) -> None:
    publish_bundle(first, local)
    before, head = content(local), local.head()
    with pytest.raises(RequestError, match=message):
        upsert(local, derived().funnel, rows)
    assert (content(local), local.head()) == (before, head)


def test_items_that_the_version_before_takes_are_encoded_by_whoever_serves_the_live_one(
    first: Path, second: Path, store: Store, tmp_path: Path
) -> None:
    version, funnel = publish_bundle(first, store), derived().funnel
    other = publish_bundle(second, store)
    held = served(store, tmp_path / "cache")
    head = upsert(store, funnel, [item(3, worth=1.5), item(4, 99)])
    head = upsert(store, funnel, [item(5, 99, worth=2.5)])
    assert (head.seq, head.live, [one.changed for one in list_versions(store)]) == (4, other, [0, 0])
    assert [change.version for _, change in read_journal(store, 0, 4)] == [version, other, other, other]
    # a reader that starts now, one that follows, and one of the version before
    expected = records(held) | dict(
        encode_records(held, [*map(ItemRow.of, (item(3, worth=1.5), item(5, 99, worth=2.5)))])
    )
    for live in (served(store, tmp_path / "cache"), catch_up(store, other, held)):
        assert live.manifest.items_seq == 4 and records(live) == expected
    assert worths(served(store, tmp_path / "cache", version)) == worths(funnel) | {3: 1.5, 99: 2.5}
    # who serves the live version enters them with the next items
    upsert(store, Funnel.open(second), [item(6, 99, worth=3.5)])
    upsert(store, funnel, [item(7, 3, worth=4.5)])
    upsert(store, Funnel.open(second), [item(8, 98, worth=5.5)])
    assert list_versions(store)[1].changed == 3
    assert worths(served(store, tmp_path / "cache")) == worths(held) | {3: 4.5, 99: 3.5, 98: 5.5}
    assert publish_bundle(second, store) == other  # which finds nothing missing
    # a version that went live since has them, and the one before it, too
    upsert(store, funnel, [item(9, 97, worth=6.5)])
    assert roll_back_store(store) == version
    assert worths(served(store, tmp_path / "cache")) == worths(funnel) | {3: 4.5, 99: 3.5, 98: 5.5, 97: 6.5}
    assert worths(served(store, tmp_path / "cache", other))[97] == 6.5
    assert [line.version for line in read_log(store)] == [version, *[other] * 7, version]


def test_a_topic_waits_for_the_version_that_went_live(first: Path, second: Path, local: Store) -> None:
    """Its rows that the version refuses are put aside."""
    version = publish_bundle(first, local)
    other = publish_bundle(second, local)
    before, funnel, rows = content(local), derived().funnel, [ItemRow.of(item(3))]
    with pytest.raises(VersionChangedError, match=f"{other} is live, {version} was when the items were read"):
        change_items(local, funnel, rows, encode_records(funnel, rows))
    assert content(local) == before


def test_items_that_come_at_once_are_all_counted(first: Path, local: Store, tmp_path: Path) -> None:
    publish_bundle(first, local)
    funnel = derived().funnel

    def put(n: int) -> int:
        return upsert(local, funnel, [item(3, 100 + n, worth=n), item(4, 50, worth=n)]).seq

    with ThreadPoolExecutor(4) as pool:
        changes = list(pool.map(put, range(20)))
    assert sorted(changes) == list(range(2, 22))
    worth_by_id = worths(served(local, tmp_path / "cache"))
    assert [worth_by_id[100 + n] for n in range(20)] == list(range(20))
    assert worth_by_id[50] == changes.index(21)


# Stopped


class StoppedError(Exception):
    pass


def stop_at(stop: int) -> Callable[[int, Mapping[str, Pairs]], None]:
    def happens(number: int, entries: Mapping[str, Pairs]) -> None:
        if number == stop:
            raise StoppedError

    return happens


@pytest.fixture(scope="module")
def unbroken(first: Path, second: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """The content of a store after both bundles, and the number of writes until the second went live."""
    with opened("lmdb", tmp_path_factory.mktemp("unbroken")) as store, pytest.MonkeyPatch.context() as patch:
        set_blocks(patch)
        publish_bundle(first, store)
        counted = Between(store, lambda number, entries: None)
        publish_bundle(second, counted)
        tables = content(store)
        del tables[JOURNAL], tables[LOG]
        return tables, counted.writes


@pytest.mark.parametrize(
    "left", [1, 8, *(pytest.param(left, marks=pytest.mark.thorough) for left in (None, 2, 4, 15))]
)
def test_a_publish_that_stops_leaves_what_is_live_and_goes_on(
    first: Path, second: Path, store: Store, tmp_path: Path, in_blocks: None, unbroken: Any, left: int | None
) -> None:
    """With so many writes left: the swap, six blocks of records, the manifest, parts; None for all."""
    whole, writes = unbroken
    stop = writes - (left or writes)
    version = publish_bundle(first, store)
    head = store.head()
    for again in (stop, stop // 2):
        with pytest.raises(StoppedError):
            publish_bundle(second, Between(store, stop_at(again)))
        assert store.head() == head
    assert records(served(store, tmp_path / "cache")) == records(derived().funnel)
    other = publish_bundle(second, store)
    assert list(StoreState.read(store)[1].versions) == [version, other]
    tables = content(store)
    del tables[JOURNAL], tables[LOG]
    assert tables == whole
    assert [one.records for one in list_versions(store)] == [16, 16]


# Damaged


def damaged(store: Store, table: str, key: bytes) -> None:
    (value,) = store.get(table, [key])
    assert value is not None
    store.put({table: [(key, value[:-1] + bytes([value[-1] ^ 1]))]})


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (b"i", r"16 of 16 records of .* are not whole; what is live is untouched"),
        (b"rank.value.onnx/0", r"rank.value.onnx of .* is not whole; publish it again"),
    ],
)
def test_what_does_not_arrive_whole_is_found(
    first: Path, second: Path, store: Store, prefix: bytes, message: str
) -> None:
    publish_bundle(first, store)
    head = store.head()

    def happens(number: int, entries: Mapping[str, Pairs]) -> Mapping[str, Pairs]:
        return {t: [(k, v[:-1] if k.startswith(prefix) else v) for k, v in p] for t, p in entries.items()}

    with pytest.raises(StoreError, match=message):
        publish_bundle(second, Between(store, happens))
    assert store.head() == head
    version = publish_bundle(second, store)
    assert StoreState.read(store)[1].live == version


def test_another_bundle_of_the_same_name_is_refused(first: Path, local: Store) -> None:
    """Its parts would become a mix of both."""
    version, bundle = publish_bundle(first, local), Bundle.open(first)
    forged = Bundle(bundle.folder, bundle.manifest.model_copy(update={"digest": "0" * 64}))
    with pytest.raises(
        StoreError, match=f"has another bundle of the name {version}; export or refresh yours again"
    ):
        _refuse_another(forged, local, version, StoreState.read(local)[1].versions[version])


def test_a_bundle_is_one_version_wherever_it_lies(first: Path) -> None:
    manifest = Bundle.open(first).manifest
    places = dict.fromkeys(manifest.files, "0123456789abcdef")
    remote = manifest.model_copy(update={"places": places})
    assert encode_manifest(remote) == encode_manifest(manifest)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("items", None),
        ("changed", None),
        ("parts", b"rank.value.onnx/0"),
        ("parts", b"manifest.json"),
    ],
)
def test_each_damage_is_seen_and_mended_live_or_not(
    first: Path, second: Path, local: Store, tmp_path: Path, table: str, key: bytes | None
) -> None:
    version, funnel = publish_bundle(first, local), derived().funnel
    upsert(local, funnel, [item(3, 99), item(4)])
    expected = records(served(local, tmp_path / "before"))
    damaged(local, f"{table}/{version}", key or next(iter(local.scan(f"{table}/{version}")))[0][0])
    with pytest.raises(StoreError, match=r"is damaged|is not whole"):
        served(local, tmp_path / "after")
    if table == "items":
        publish_bundle(second, local)
    said: list[str] = []
    assert publish_bundle(first, local, said.append) == version
    assert records(served(local, tmp_path / "after")) == expected
    head = local.head()
    assert publish_bundle(first, local, said.append) == version
    assert said[-1] == f"{version} is live already" and local.head() == head


def test_a_damaged_record_that_the_journal_has_not_goes(first: Path, local: Store, tmp_path: Path) -> None:
    version, funnel = publish_bundle(first, local), derived().funnel
    upsert(local, funnel, [item(3, 99)])
    upsert(local, funnel, [item(3, 98)])
    (key,) = (key for key, _ in next(iter(local.scan(f"changed/{version}"))) if key.endswith(b"\x63"))
    damaged(local, f"changed/{version}", key)
    assert local.swap(local.head(), local.head() or b"", gone={JOURNAL: [journal_key(2)]})
    publish_bundle(first, local)
    worth_by_id = worths(served(local, tmp_path / "cache"))
    assert 98 in worth_by_id and 99 not in worth_by_id


# At once


@pytest.mark.parametrize("same", [True, False])
def test_two_publish_at_once(
    first: Path, second: Path, store: Store, tmp_path: Path, in_blocks: None, same: bool
) -> None:
    bundles = (second, second) if same else (first, second)
    start = Barrier(2)

    def go(path: Path) -> str:
        start.wait()
        return publish_bundle(path, store)

    with ThreadPoolExecutor(2) as pool:
        versions = list(pool.map(go, bundles))
    _, head = StoreState.read(store)
    assert head.live in versions and set(head.versions) == set(versions)
    assert head.seq in ((1, 2) if same else (2,))
    for path, version in zip(bundles, versions, strict=True):
        funnel = Funnel(fetch_bundle(store, version, tmp_path / "cache"))
        assert records(funnel) == records(Funnel.open(path))


def test_what_came_since_the_items_were_read_is_in_the_new_version(
    first: Path, store: Store, tmp_path: Path
) -> None:
    publish_bundle(first, store)
    funnel = derived().funnel
    upsert(store, funnel, [item(3, 97, worth=1.0), item(4, worth=1.0)])
    bundle = variant(first, tmp_path / "second", 2, as_of=2)
    upsert(store, funnel, [item(3, 98, worth=2.0), item(5, worth=2.0)])
    said: list[str] = []

    def happens(number: int, entries: Mapping[str, Pairs]) -> None:
        if number == 3:
            upsert(store, funnel, [item(3, 99, worth=3.0), item(5, worth=3.0)])

    other = publish_bundle(bundle, Between(store, happens), said.append)
    live = served(store, tmp_path / "cache")
    assert live.manifest.content == other and live.manifest.items_seq == 5
    # 97 and 4 came before the items were read: the bundle has what they were then
    assert worths(live) == dict.fromkeys(range(16), 2.0) | {98: 2.0, 5: 3.0, 99: 3.0}
    assert said == [
        f"3 items came since {other} was read: put on top: 5, 98, 99",
        "1 item came before the table was read: its rows count: 4",
        "1 item came before the table was read and are not in it: gone: 97",
    ]


def test_what_comes_just_before_the_swap_is_in_it(
    first: Path, second: Path, store: Store, tmp_path: Path
) -> None:
    publish_bundle(first, store)
    funnel = derived().funnel
    came: list[int] = []

    def happens(number: int, entries: Mapping[str, Pairs]) -> None:
        if JOURNAL in entries and len(came) < 3:
            came.append(upsert(store, funnel, [item(3, 90 + len(came))]).seq)

    publish_bundle(second, Between(store, happens))
    assert came == [2, 3, 4]
    live = served(store, tmp_path / "cache")
    assert live.manifest.items_seq == 5 and {90, 91, 92} < worths(live).keys()


# By the command line


def test_the_command_says_what_is_live(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, version = f"lmdb:{tmp_path / 'store'}", Bundle.open(first).manifest.content
    assert run_corank(capsys, "publish", first, url) == (0, "", f"live: {version}\n")
    code, out, err = run_corank(capsys, "publish", first, url)
    assert (code, out) == (0, "")
    assert err == f"{version} is live already\nlive: {version}\n"
