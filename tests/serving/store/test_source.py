"""A service that is pinned to a version of a store, and one that follows it while another version goes live."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from corank.core.errors import StoreError
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.store.base import Store
from corank_serve.store.claims import LEASES, read_leases
from corank_serve.store.journal import JOURNAL, Change, journal_key
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import (
    list_versions,
    promote_version,
    remove_versions,
    roll_back_store,
    withdraw_version,
)
from corank_serve.store.source import PinnedSource, StoreSource
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.service import TOKEN, access
from tests.support.shared import derived
from tests.support.stores import item, opened, requests
from tests.support.waiting import eventually

ABSENT = "0123456789abcdef-1-1a2b3c4d"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of another model over the same items."""
    return variant(derived().base / "bundle", tmp_path_factory.mktemp("second") / "bundle", 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened("lmdb", tmp_path) as backend:
        yield backend


@pytest.fixture
def versions(store: Store, second: Path) -> tuple[str, str]:
    """The live and the staged version."""
    live = publish_bundle(derived().base / "bundle", store)
    return live, publish_bundle(second, store, stage=True)


class Service:
    """A service in process, and what it reports."""

    client: TestClient

    def __init__(self, store: Store, cache: Path, version: str | None) -> None:
        self.said: list[str] = []
        how: Any = {"report": self.said.append}
        self.source = (
            StoreSource(store, cache, **how)
            if version is None
            else PinnedSource(version, store, cache, **how)
        )
        self.follower = Follower(self.source, 60.0, self.said.append)
        self.service = RankingService(self.follower, Limits(), access())

    def get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(path).json()
        return answer

    def put(self, *rows: dict[str, Any]) -> dict[str, Any]:
        reply = self.client.post("/items", json={"items": rows}, headers=TOKEN)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def served(self) -> str:
        """The version that answers, in the same words wherever it is told."""
        self.follower.refresh()
        content = self.follower.funnel.manifest.content
        answer = self.client.post("/rank", json=requests()[0] | {"trace": False}).json()
        assert answer["model_version"] == self.follower.funnel.manifest.model_version
        status, ready, version = (self.get(path) for path in ("/status", "/readyz", "/version"))
        assert status["version"] == ready["version"] == content
        assert status["pinned"] is ready["pinned"] is version["pinned"]
        self.service.metrics.update_gauges()
        assert f"corank_pinned {float(ready['pinned'])}" in str(self.client.get("/metrics").text)
        return f"{'pinned' if ready['pinned'] else 'live'} {content}"


@contextmanager
def serving(store: Store, cache: Path, version: str | None = None) -> Iterator[Service]:
    service = Service(store, cache, version)
    with TestClient(service.service.app()) as service.client:
        yield service


# A pinned version


def test_a_pinned_version_stays_whatever_goes_live_and_takes_items(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    live, staged = versions
    with serving(store, tmp_path / "a", staged) as pinned, serving(store, tmp_path / "b") as other:
        assert (pinned.served(), other.served()) == (f"pinned {staged}", f"live {live}")
        assert other.put(item(3, 99)) == {"items": 1, "items_seq": 2}
        assert pinned.put(item(4, 98)) == {"items": 1, "items_seq": 3}  # served at once, though not live
        assert pinned.get("/item?id=98") and pinned.get("/item?id=99")
        other.follower.refresh()
        assert other.get("/item?id=98") and other.get("/version")["items_seq"] == 3
        promote_version(store, staged)
        roll_back_store(store, live)
        publish_bundle(derived().base / "bundle", store, stage=True)
    with serving(store, tmp_path / "a", live) as pinned:
        promote_version(store, staged)
        assert pinned.served() == f"pinned {live}" and pinned.get("/item?id=98")


def test_a_withdrawn_version_gives_way_to_what_is_live_until_it_is_staged_again(
    store: Store, versions: tuple[str, str], second: Path, tmp_path: Path
) -> None:
    live, staged = versions
    with serving(store, tmp_path, staged) as service:
        withdraw_version(store, staged)
        assert service.served() == f"live {live}"
        assert service.said[0].startswith(f"{staged} was withdrawn: ")
        publish_bundle(second, store, stage=True)
        assert service.served() == f"pinned {staged}" and service.said[-1] == f"pinned: {staged}"
        promote_version(store, staged)
        roll_back_store(store)
        assert service.served() == f"live {live}"
    with serving(store, tmp_path, staged) as service:  # a start refuses nobody
        assert service.served() == f"live {live}"


def test_prune_keeps_what_a_service_is_pinned_to(
    store: Store, versions: tuple[str, str], second: Path, tmp_path: Path
) -> None:
    first, staged = versions
    promote_version(store, staged)
    said: list[str] = []
    with serving(store, tmp_path, first) as service:
        assert [*read_leases(store)[0]] == [first]
        assert remove_versions(store, 0, said.append) == []
        assert said[0].startswith(f"{first} stays: ") and "--version" in said[0]
        store.drop(LEASES)  # as if the store had been away for long
        assert remove_versions(store, 0) == [first]
        assert service.served() == f"pinned {first}"
        status = service.get("/status")
        assert not status["source_up"] and f"no version {first}" in status["source_error"]
    with serving(store, tmp_path, first) as service:
        assert service.served() == f"pinned {first}" and service.get("/version")["from_cache"]


def test_a_version_that_there_is_not_is_refused_with_those_that_there_are(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=f"no version {ABSENT}; there are {versions[0]}, {versions[1]}"):
        Service(store, tmp_path, ABSENT)


# Items meanwhile


def test_items_are_taken_from_when_a_version_goes_live_until_it_is_served(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    live, staged = versions
    with serving(store, tmp_path) as service:
        promote_version(store, staged)  # which is not seen before something wakes the follower
        assert service.put(item(3, 99), item(4, 98)) == {"items": 2, "items_seq": 3, "live": False}
        eventually(lambda: service.get("/version")["items_seq"] == 3)
        assert service.get("/version")["model_version"] == f"{2:016x}"
        assert service.put(item(5, 97)) == {"items": 1, "items_seq": 4}
        assert all(service.follower.funnel.describe_item(id_) is not None for id_ in ("99", "98", "97"))
    assert {one.version: one.changed for one in list_versions(store)} == {live: 0, staged: 3}


def test_items_that_the_version_that_went_live_refuses_are_told(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    _, staged = versions
    with serving(store, tmp_path) as service:
        promote_version(store, staged)
        head = upsert(store, derived().funnel, [item(3, 99), item(4, 98)])
        raw, key = store.get(JOURNAL, [journal_key(head.seq)])[0] or b"", journal_key(head.seq)
        change = msgspec.msgpack.decode(raw, type=Change)
        odd = msgspec.structs.replace(change, items=[item(3, 99, worth="dear"), item(4, 98)])
        raw, state = msgspec.msgpack.encode(odd), head.model_copy(update={"id": odd.id})
        assert store.swap(store.head(), state.to_bytes(), {JOURNAL: [(key, raw)]})
        service.follower.refresh()
        assert service.follower.funnel.manifest.items_seq == 3
        assert [service.follower.funnel.describe_item(id_) is None for id_ in ("99", "98")] == [True, False]
        assert any("item 99 is left out: " in line for line in service.said)
