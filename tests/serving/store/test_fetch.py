"""A store serves what was published and what came since, however a reader got there."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corank.bundle.bundle import Bundle
from corank.bundle.signatures import SigningKeys
from corank.core.errors import BundleError, StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Store, open_store
from corank_serve.store.fetch import KEPT, catch_up, fetch_bundle, fetch_in_subprocess, load_latest, restore
from corank_serve.store.journal import JOURNAL, journal_key
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import remove_versions, roll_back_store
from corank_serve.store.source import SharedLoading, StoreSource, open_last_live, write_last_live
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.cases import Case
from tests.support.redis_server import redis_server
from tests.support.shared import derived
from tests.support.signing import make_keys
from tests.support.stores import answers, item, put, records, worths

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> Case:
    return derived()


# A bundle by way of a store


def test_every_request_is_answered_as_by_the_bundle(
    case: Case, first: Path, store: Store, tmp_path: Path
) -> None:
    version = publish_bundle(first, store)
    funnel = Funnel(fetch_bundle(store, version, tmp_path / "cache"))
    assert records(funnel) == records(case.funnel)
    assert answers(funnel) == answers(case.funnel)
    assert answers(load_latest(store, version, funnel)) == answers(case.funnel)
    assert funnel.manifest.content == version == Bundle.open(first).manifest.content


def test_it_is_fetched_once_by_all_who_ask_at_once(first: Path, local: Store, tmp_path: Path) -> None:
    version = publish_bundle(first, local)
    with ThreadPoolExecutor(4) as pool:
        bundles = list(pool.map(lambda _: fetch_bundle(local, version, tmp_path / "cache"), range(4)))
    assert {one.folder for one in bundles} == {bundles[0].folder}
    local.drop(f"parts/{version}")
    assert fetch_bundle(local, version, tmp_path / "cache") == bundles[0]
    with pytest.raises(StoreError, match=f"the manifest of {version} is not whole; publish it again"):
        fetch_bundle(local, version, tmp_path / "other")


def test_a_copy_that_is_fetched_anew_stays_for_who_reads_it(
    first: Path, local: Store, tmp_path: Path
) -> None:
    version, sign = publish_bundle(first, local), SigningKeys.load([make_keys(tmp_path).private])
    before, sizes = fetch_bundle(local, version, tmp_path / "cache"), list[int]()
    assert sign is not None
    publish_bundle(first, local, sign=sign)
    names = before.manifest.files
    fetch_bundle(
        *(local, version, tmp_path / "cache"),
        trust=sign.public(),
        pause=lambda: sizes.append(sum((before.folder / name).stat().st_size for name in names)),
    )
    assert sizes == [before.manifest.size]
    assert Bundle.open(tmp_path / "cache" / version, trust=sign.public()).folder == before.folder


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_of_another_version_is_not_taken_for_it(
    bundles: list[Path], local: Store, tmp_path: Path, link: bool
) -> None:
    cache, url = tmp_path / "cache", local.address
    one, other = (publish_bundle(bundle, local) for bundle in bundles[:2])
    fetch_bundle(local, other, cache)
    shutil.copytree(cache / other, cache / one)
    if link:
        (cache / one / other).rename(tmp_path / "elsewhere")
        (cache / one / other).symlink_to(tmp_path / "elsewhere")
    write_last_live(cache, url, one)
    assert open_last_live(cache, url) is None
    assert fetch_bundle(local, one, cache).manifest.content == one
    cached = open_last_live(cache, url)
    assert cached is not None and cached.manifest.content == one


@pytest.mark.parametrize("inner", ["", "items", "manifest.json"])
def test_a_link_in_a_copy_is_replaced_and_not_followed(
    first: Path, local: Store, tmp_path: Path, inner: str
) -> None:
    version, cache, elsewhere = publish_bundle(first, local), tmp_path / "cache", tmp_path / "elsewhere"
    content = fetch_bundle(local, version, cache).folder
    path = cache / version / inner if inner == "manifest.json" else content / inner
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.stat().st_mtime_ns
    assert Funnel(fetch_bundle(local, version, cache)).manifest.content == version
    assert not path.is_symlink() and elsewhere.stat().st_mtime_ns == before


def test_a_cache_keeps_what_was_asked_for_last(first: Path, local: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "mine").mkdir(parents=True)
    killed = cache / f"{9:016x}-1-{9:08x}" / f"{9:016x}" / "items"
    killed.mkdir(parents=True)
    versions = [publish_bundle(variant(first, tmp_path / f"{n}", n), local) for n in range(KEPT + 1)]
    kept = fetch_bundle(local, versions[0], cache)
    for version in versions[1:-1]:
        fetch_bundle(local, version, cache)
    assert fetch_bundle(local, versions[0], cache) == kept
    funnel = Funnel(fetch_bundle(local, versions[1], cache))
    fetch_bundle(local, versions[-1], cache)
    fetch_bundle(local, versions[0], cache)
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {"mine", *versions} - {versions[2]}
    shutil.rmtree(cache)
    assert answers(funnel) == answers(Funnel.open(tmp_path / "1"))


def test_a_missing_or_damaged_record_is_told(first: Path, local: Store, tmp_path: Path) -> None:
    version = publish_bundle(first, local)
    (key, record), *_ = next(iter(local.scan(f"items/{version}")))
    local.put({f"items/{version}": [(key, record[:-1] + b"\0")]})
    with pytest.raises(StoreError, match="the record of item 0 is damaged"):
        fetch_bundle(local, version, tmp_path / "cache")
    assert local.swap(local.head(), local.head() or b"", gone={f"items/{version}": [key]})
    with pytest.raises(StoreError, match=r"1 records of .* are missing; publish it again"):
        fetch_bundle(local, version, tmp_path / "cache")
    assert not (tmp_path / "cache" / version / "manifest.json").exists()


def test_a_cache_that_cannot_be_is_told(first: Path, local: Store, tmp_path: Path) -> None:
    version = publish_bundle(first, local)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=f"{tmp_path / 'file'}: bundles cannot be kept there"):
        fetch_bundle(local, version, tmp_path / "file")


def test_a_cache_without_room_is_told_at_once(
    first: Path, local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, asked = publish_bundle(first, local), list[Path]()

    def is_full(folder: Path) -> Any:
        asked.append(folder)
        return SimpleNamespace(free=0)

    monkeypatch.setattr("shutil.disk_usage", is_full)
    with pytest.raises(BundleError, match=r"needs .* bytes, and 0 are free"):
        fetch_bundle(local, version, tmp_path / "cache")
    assert len(asked) == 1, "it was tried again"


# In a process of its own


@pytest.mark.thorough
@pytest.mark.store
def test_a_version_is_fetched_from_a_server_that_wants_a_password(first: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "secret") as server:
        url = server.url.replace("://", "://:secret@")
        version = publish_bundle(first, open_store(url))
        assert fetch_in_subprocess(url, tmp_path / "cache", version)
    cached = Bundle.open(tmp_path / "cache" / version)
    assert cached.manifest.model_version == Bundle.open(first).manifest.model_version


@pytest.mark.thorough
def test_what_cannot_be_fetched_is_left_to_who_tells_why(
    first: Path, local: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(first, local)
    assert not fetch_in_subprocess(local.address, tmp_path / "cache", "0" * 16 + "-1-00000000")
    assert not fetch_in_subprocess(f"lmdb:{tmp_path / 'nowhere'}", tmp_path / "cache", "any")
    assert capfd.readouterr() == ("", "")


@pytest.mark.thorough
def test_a_version_is_fetched_beside_a_service_once_for_all_its_workers(
    bundles: list[Path], local: Store, tmp_path: Path
) -> None:
    cache, asked = tmp_path / "cache", list[tuple[str, bytes | None]]()

    def aside(version: str) -> bytes | None:
        asked.append((version, fetch_in_subprocess(local.address, cache, version)))
        return asked[-1][1]

    publish_bundle(bundles[0], local)
    loading = SharedLoading(lock=tmp_path / "loading")
    workers = [StoreSource(local, cache, aside, loading=loading) for _ in range(2)]
    held = [worker.load_newer(None) for worker in workers]
    assert not asked, "who serves nobody yet need not make way"
    version = publish_bundle(bundles[1], local)
    with ThreadPoolExecutor(2) as pool:
        newer = list(pool.map(lambda worker, funnel: worker.load_newer(funnel), workers, held))
    for funnel in newer:
        assert funnel is not None and funnel.manifest.content == version
        assert answers(funnel) == answers(Funnel.open(bundles[1]))
    assert [name for name, _ in asked] == [version] and asked[0][1] in loading.proofs
    part = cache / version / version / "rank.value.onnx"
    part.write_bytes(part.read_bytes()[:-1])
    again = workers[0].load_newer(held[0])
    assert again is not None and answers(again) == answers(newer[0]) and len(asked) == 2


# Later changes


class Follower:
    """Looks at a store now and then, as a service does."""

    def __init__(self, store: Store, cache: Path) -> None:
        self.source = StoreSource(store, cache)
        self.funnel: Funnel | None = None

    def look(self) -> Funnel:
        self.funnel = self.source.load_newer(self.funnel) or self.funnel
        assert self.funnel is not None
        return self.funnel


def test_a_follower_that_catches_up_is_one_that_reads_all_anew(
    case: Case, first: Path, store: Store, tmp_path: Path
) -> None:
    version = publish_bundle(first, store)
    follower, base = Follower(store, tmp_path / "cache"), case.funnel
    before = answers(follower.look())
    for n, rows in enumerate([[item(3, worth=1.0)], [item(4, 99), item(5)], [item(6, 99, worth=2.0)]]):
        assert upsert(store, base, rows).seq == n + 2
        if n != 1:
            follower.look()
    funnel = follower.look()
    anew = load_latest(store, version, Funnel(fetch_bundle(store, version, tmp_path / "cache")))
    earlier = restore(store, version, base, 4)
    assert {f.manifest.items_seq for f in (funnel, anew, earlier)} == {4}
    assert records(funnel) == records(anew) == records(earlier)
    assert worths(funnel)[3] == 1 and worths(funnel)[99] == 2
    ours = answers(funnel, [99])
    assert ours == answers(anew, [99]) == answers(earlier, [99])
    assert not any(99 in answer["unknown"] for answer in ours)
    assert answers(restore(store, version, base, 1)) == before
    assert catch_up(store, version, funnel) is funnel


def test_what_was_away_and_is_live_again_is_read_anew(
    first: Path, second: Path, local: Store, tmp_path: Path
) -> None:
    """Items that came meanwhile came under another version: the journal has no records of them for this one."""
    version = publish_bundle(first, local)
    follower = Follower(local, tmp_path / "cache")
    follower.look()
    publish_bundle(second, local)
    put(local, second, item(3, 99, worth=7.0))
    assert roll_back_store(local) == version
    assert worths(follower.look())[99] == 7


def test_who_follows_a_journal_that_was_trimmed_reads_all_anew(
    case: Case, first: Path, local: Store, tmp_path: Path
) -> None:
    publish_bundle(first, local)
    follower = Follower(local, tmp_path / "cache")
    follower.look()
    upsert(local, case.funnel, [item(3, 99, worth=5.0)])
    upsert(local, case.funnel, [item(3, 98, worth=6.0)])
    assert local.swap(local.head(), local.head() or b"", gone={JOURNAL: [journal_key(2)]})
    worth_by_id = worths(follower.look())
    assert worth_by_id[99] == 5 and worth_by_id[98] == 6


def test_an_earlier_change_that_the_journal_has_not_is_told(
    case: Case, first: Path, local: Store, tmp_path: Path
) -> None:
    version = publish_bundle(first, local)
    upsert(local, case.funnel, [item(3, 99)])
    publish_bundle(variant(first, tmp_path / "second", 2, as_of=2), local)
    remove_versions(local)
    with pytest.raises(StoreError, match=f"the journal has not all that came since {version} any more"):
        restore(local, version, case.funnel, 2)
    with pytest.raises(StoreError, match="no version none; there are "):
        restore(local, "none", case.funnel, 2)
