"""A store that lost its last writes and counted on is another one: who followed it reads all of it anew."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from corank.bundle.bundle import Bundle
from corank.core.errors import StoreError
from corank.funnel.funnel import Funnel
from corank_serve.http.follower import Follower, ServiceStatus
from corank_serve.http.process.worker_process import Drain
from corank_serve.http.prometheus import ServiceMetrics
from corank_serve.log.replay import store_funnels
from corank_serve.store.base import Pairs, Store
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import remove_versions, roll_back_store
from corank_serve.store.source import StoreSource
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.shared import derived
from tests.support.store_faults import dump, restore_dump
from tests.support.stores import KINDS, item, opened, records, worths

pytestmark = pytest.mark.slow


def read_anew(store: Store, cache: Path) -> Funnel:
    live = StoreState.read(store)[1].require_live(store)
    return load_latest(store, live, Funnel(fetch_bundle(store, live, cache)))


@pytest.fixture(params=KINDS[:2])  # of a cluster: test_redis_cluster.py
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with opened(request.param, tmp_path) as backend:
        yield backend


def test_a_change_of_the_same_number_is_not_the_same_change(store: Store, tmp_path: Path) -> None:
    publish_bundle(derived().base / "bundle", store)
    base = derived().funnel
    upsert(store, base, [item(3, 90, worth=1.0)])
    head, tables = store.head(), dump(store)
    upsert(store, base, [item(3, 91, worth=2.0)])
    said: list[str] = []
    follower = Follower(StoreSource(store, tmp_path / "cache"), report=said.append)
    served = follower.funnel.manifest
    status = ServiceStatus(follower, Drain(), None)
    metrics = ServiceMetrics(status)
    assert b"corank_resynchronised_total 0.0" in metrics.expose()[0]
    restore_dump(store, head, tables)
    upsert(store, base, [item(3, 92, worth=3.0)])
    follower.refresh()
    assert worths(follower.funnel).keys() == {*range(16), 90, 92}
    now = follower.funnel.manifest
    assert (now.items_seq, served.items_seq) == (3, 3) and now.items_id != served.items_id
    assert said == ["the store had lost changes that were served: all of it was read anew"]
    assert follower.source.resynchronised == status.describe()["resynchronised"] == 1
    for _ in range(2):  # it is counted once
        assert b"corank_resynchronised_total 1.0" in metrics.expose()[0]
    # an answer of before the loss is not taken for one of after it
    find = store_funnels(store, tmp_path / "again")
    assert find(now.model_version, 3, served.items_id) is None
    funnel = find(now.model_version, 3, now.items_id)
    assert funnel is not None and records(funnel) == records(follower.funnel)
    follower.refresh()
    assert follower.source.resynchronised == 1


@pytest.mark.parametrize("more", [0, 3])
def test_a_store_that_went_back_is_followed_back(store: Store, tmp_path: Path, more: int) -> None:
    publish_bundle(derived().base / "bundle", store)
    base = derived().funnel
    head, tables = store.head(), dump(store)
    for n in range(2):
        upsert(store, base, [item(3, 90 + n)])
    source = StoreSource(store, tmp_path / "cache")
    served = source.load_newer(None)
    restore_dump(store, head, tables)
    for n in range(more):
        upsert(store, base, [item(3, 80 + n)])
    newer = source.load_newer(served)
    assert newer is not None and records(newer) == records(read_anew(store, tmp_path / "cache"))
    assert worths(newer).keys() == {*range(16), *range(80, 80 + more)}
    assert source.resynchronised == 1 and source.load_newer(newer) is None


def test_changed_items_that_were_lost_are_told_and_come_back(store: Store, tmp_path: Path) -> None:
    """As by a Redis that evicts: the head stays, a table goes."""
    bundle, base = derived().base / "bundle", derived().funnel
    version = publish_bundle(bundle, store)
    upsert(store, base, [item(3, 90), item(4)])
    upsert(store, base, [item(5, 90), item(6, 91)])
    expected = records(read_anew(store, tmp_path / "cache"))
    source = StoreSource(store, tmp_path / "cache")
    served = source.load_newer(None)
    store.drop(f"changed/{version}")
    with pytest.raises(StoreError, match=f"3 of 3 changed items of {version} are missing; publish it again"):
        read_anew(store, tmp_path / "cache")
    assert source.load_newer(served) is None  # what is served is whole
    publish_bundle(bundle, store)
    assert records(read_anew(store, tmp_path / "cache")) == expected
    newer = source.load_newer(served)
    assert newer is not None and records(newer) == expected


# Whatever happens in whatever order


@dataclass(frozen=True)
class Known:
    """What a store must hold: as-of of each version, and what came."""

    as_of: dict[str, int] = field(default_factory=dict)
    came: tuple[tuple[int, int, float], ...] = ()
    """Change, item, worth."""


@dataclass
class Past:
    """Random steps on a store, which may go back to what it held before."""

    store: Store
    folder: Path
    rng: np.random.Generator
    known: Known = Known()
    number: dict[str, int] = field(default_factory=dict)
    kept: list[tuple[bytes | None, dict[str, Pairs], Known]] = field(default_factory=list)

    def publish(self) -> None:
        number = len(self.number) + 2
        _, state = StoreState.read(self.store)
        as_of = (
            int(self.rng.integers(state.journal_from - 1, state.seq + 1)) if self.rng.random() < 0.6 else None
        )
        path = variant(derived().base / "bundle", self.folder / f"{number}", number, as_of)
        version = Bundle.open(path).manifest.content
        self.number[version] = number
        base = max(as_of or 0, state.journal_from - 1)
        self.known = replace(self.known, as_of=self.known.as_of | {version: base})
        assert publish_bundle(path, self.store) == version

    def upsert(self) -> None:
        _, state = StoreState.read(self.store)
        # of the version that is live, or of any other: as by a service that has not seen it yet
        held = state.require_live(self.store) if self.rng.random() < 0.6 else self.rng.choice([*self.number])
        funnel = Funnel.open(self.folder / f"{self.number[held]}")
        id_, worth = int(self.rng.integers(12, 20)), float(self.rng.integers(100, 10_000))
        row = item(int(self.rng.integers(16)), id_, worth=worth)
        seq = upsert(self.store, funnel, [row]).seq
        self.known = replace(self.known, came=(*self.known.came, (seq, id_, worth)))

    def roll_back(self) -> None:
        _, state = StoreState.read(self.store)
        if others := sorted(state.versions.keys() - {state.live}):
            roll_back_store(self.store, str(self.rng.choice(others)))

    def prune(self) -> None:
        remove_versions(self.store, keep=int(self.rng.integers(0, 3)))

    def keep(self) -> None:
        self.kept.append((self.store.head(), dump(self.store), self.known))

    def lose(self) -> None:
        if self.kept:
            head, tables, self.known = self.kept[int(self.rng.integers(len(self.kept)))]
            restore_dump(self.store, head, tables)

    def expected(self) -> dict[int, float]:
        live = StoreState.read(self.store)[1].require_live(self.store)
        worth_by_id = dict.fromkeys(range(16), float(self.number[live]))
        for seq, id_, worth in self.known.came:
            if seq > self.known.as_of[live]:
                worth_by_id[id_] = worth
        return worth_by_id


def test_every_follower_equals_the_store_whatever_it_lost(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    past = Past(store, tmp_path, rng)
    sources = [StoreSource(store, tmp_path / "cache") for _ in range(3)]
    funnels: list[Funnel | None] = [None] * len(sources)
    steps = [past.publish, *[past.upsert] * 4, past.roll_back, past.prune, past.keep, past.keep, past.lose]
    past.publish()
    for _ in range(40):
        steps[int(rng.integers(len(steps)))]()
        for n, source in enumerate(sources):
            if rng.random() < 0.3:
                funnels[n] = source.load_newer(funnels[n]) or funnels[n]
                funnel = funnels[n]
                assert funnel is not None and worths(funnel) == past.expected()
    anew = records(read_anew(store, tmp_path / "anew"))
    for n, source in enumerate(sources):
        funnel = source.load_newer(funnels[n]) or funnels[n]
        assert funnel is not None and records(funnel) == anew and worths(funnel) == past.expected()
