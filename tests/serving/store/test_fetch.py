"""A store serves what was published and what came since, however a reader got there."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from corank.bundle.bundle import Bundle
from corank.core.errors import BundleError, StoreError
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store, open_store
from corank.serving.store.fetch import KEPT, catch_up, fetch_bundle, fetch_in_subprocess, load_latest, restore
from corank.serving.store.journal import JOURNAL, journal_key, read_journal
from corank.serving.store.live_version import StoreState
from corank.serving.store.publish import publish_bundle
from corank.serving.store.retention import remove_versions, roll_back_store
from corank.serving.store.source import StoreSource
from corank.serving.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.cases import Case
from tests.support.redis_server import redis_server
from tests.support.shared import derived
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


def test_a_damaged_copy_is_fetched_anew(case: Case, first: Path, local: Store, tmp_path: Path) -> None:
    version = publish_bundle(first, local)
    folder = fetch_bundle(local, version, tmp_path / "cache").folder
    (folder / "rank.value.onnx").write_bytes(b"")
    assert answers(Funnel(fetch_bundle(local, version, tmp_path / "cache"))) == answers(case.funnel)


def test_a_cache_keeps_what_was_asked_for_last(first: Path, local: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "mine").mkdir(parents=True)
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
def test_a_service_has_the_next_version_fetched_beside_it(
    bundles: list[Path], local: Store, tmp_path: Path
) -> None:
    cache, asked = tmp_path / "cache", list[tuple[str, bool]]()

    def aside(version: str) -> bool:
        asked.append((version, fetch_in_subprocess(local.address, cache, version)))
        return asked[-1][1]

    publish_bundle(bundles[0], local)
    source = StoreSource(local, cache, aside)
    held = source.load_newer(None)
    assert not asked, "who serves nobody yet need not make way"
    version = publish_bundle(bundles[1], local)
    newer = source.load_newer(held)
    assert newer is not None and newer.manifest.content == version
    assert asked == [(version, True)] and answers(newer) == answers(Funnel.open(bundles[1]))


# Later changes


@dataclass
class Follower:
    """Looks at a store now and then, as a server does."""

    store: Store
    cache: Path
    funnel: Funnel | None = None
    seen: dict[tuple[str, int], dict[bytes, bytes]] = field(default_factory=dict)

    def look(self) -> Funnel:
        _, head = StoreState.read(self.store)
        live = head.require_live(self.store)
        if self.funnel is None or self.funnel.manifest.content != live:
            self.funnel = load_latest(self.store, live, Funnel(fetch_bundle(self.store, live, self.cache)))
        else:
            self.funnel = catch_up(self.store, live, self.funnel)
        self.seen[live, self.funnel.manifest.items_seq] = records(self.funnel)
        return self.funnel


def test_a_follower_that_catches_up_is_one_that_reads_all_anew(
    case: Case, first: Path, store: Store, tmp_path: Path
) -> None:
    version = publish_bundle(first, store)
    follower, base = Follower(store, tmp_path / "cache"), case.funnel
    before = answers(follower.look())
    for n, rows in enumerate([[item(3, worth=1.0)], [item(4, 99), item(5)], [item(6, 99, worth=2.0)]]):
        assert upsert(store, version, base, rows) == n + 2
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
    version = publish_bundle(first, local)
    follower = Follower(local, tmp_path / "cache")
    follower.look()
    upsert(local, version, case.funnel, [item(3, 99, worth=5.0)])
    upsert(local, version, case.funnel, [item(3, 98, worth=6.0)])
    assert local.swap(local.head(), local.head() or b"", gone={JOURNAL: [journal_key(2)]})
    worth_by_id = worths(follower.look())
    assert worth_by_id[99] == 5 and worth_by_id[98] == 6


# Whatever happens in whatever order


@dataclass
class History:
    """Changes made to a store, and the content they must leave."""

    case: Case
    store: Store
    folder: Path
    rng: np.random.Generator
    at: dict[str, int] = field(default_factory=dict)
    """By version, the change at which its items were read."""
    number: dict[str, int] = field(default_factory=dict)
    funnels: dict[str, Funnel] = field(default_factory=dict)
    came: list[tuple[int, int, float]] = field(default_factory=list)
    """Change, item, worth."""

    def publish(self) -> None:
        """A new bundle, read now, or an earlier one whose later changes are all in the journal."""
        _, head = StoreState.read(self.store)
        old = [n for version, n in self.number.items() if self.at[version] >= head.journal_from - 1]
        if old and self.rng.random() < 0.3:
            number = int(self.rng.choice(old))
        else:
            number = len(self.number) + 1
            variant(self.case.base / "bundle", self.folder / f"{number}", number, head.seq)
        funnel = Funnel.open(self.folder / f"{number}")
        version = funnel.manifest.content
        self.funnels[version], self.number[version] = funnel, number
        as_of = funnel.manifest.items_as_of
        assert as_of is not None and as_of.change is not None
        self.at[version] = as_of.change
        if self.rng.random() < 0.5:
            self.upsert()  # came since the items were read
        assert publish_bundle(self.folder / f"{number}", self.store) == version

    def upsert(self) -> None:
        _, head = StoreState.read(self.store)
        if head.live is None:
            return
        id_, worth = int(self.rng.integers(12, 20)), float(self.rng.integers(100, 10_000))
        row = item(int(self.rng.integers(16)), id_, worth=worth)
        seq = upsert(self.store, head.live, self.funnels[head.live], [row])
        ((_, change),) = read_journal(self.store, seq - 1, seq)
        assert seq == head.seq + 1 and change.version == head.live
        self.came.append((seq, id_, worth))

    def roll_back(self) -> None:
        _, head = StoreState.read(self.store)
        if len(head.versions) > 1:
            roll_back_store(self.store)

    def prune(self) -> None:
        if StoreState.read(self.store)[1].live is not None:
            remove_versions(self.store, keep=int(self.rng.integers(1, 3)))

    def worths(self, version: str, seq: int) -> dict[int, float]:
        worth_by_id = dict.fromkeys(range(16), float(self.number[version]))
        for change, id_, worth in self.came:
            if self.at[version] < change <= seq:
                worth_by_id[id_] = worth
        return worth_by_id


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_every_reader_sees_the_state_of_the_change_that_it_names(
    case: Case, local: Store, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    history = History(case, local, tmp_path, rng)
    followers = [Follower(local, tmp_path / "cache") for _ in range(3)]
    steps = [history.publish, *[history.upsert] * 4, history.roll_back, history.prune]
    history.publish()
    for _ in range(30):
        steps[rng.integers(len(steps))]()
        for follower in followers:
            if rng.random() < 0.4:
                funnel = follower.look()
                version, seq = funnel.manifest.content, funnel.manifest.items_seq
                assert seq == StoreState.read(local)[1].seq
                assert worths(funnel) == history.worths(version, seq)
    _, head = StoreState.read(local)
    recomputed = 0
    for version, seq in {one for follower in followers for one in follower.seen}:
        states = [follower.seen[version, seq] for follower in followers if (version, seq) in follower.seen]
        assert all(one == states[0] for one in states)
        if version in head.versions and head.journal_covers(head.versions[version]):
            assert records(restore(local, version, history.funnels[version], seq)) == states[0]
            recomputed += 1
    assert recomputed


def test_an_earlier_change_that_the_journal_has_not_is_told(
    case: Case, first: Path, local: Store, tmp_path: Path
) -> None:
    version = publish_bundle(first, local)
    upsert(local, version, case.funnel, [item(3, 99)])
    publish_bundle(variant(first, tmp_path / "second", 2, as_of=2), local)
    remove_versions(local)
    with pytest.raises(StoreError, match=f"the journal has not all that came since {version} any more"):
        restore(local, version, case.funnel, 2)
    with pytest.raises(StoreError, match="no version none; there are "):
        restore(local, "none", case.funnel, 2)
