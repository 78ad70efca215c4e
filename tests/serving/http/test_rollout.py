"""A service with a canary and a shadow: who gets which version, and what happens if one is missing, broken or over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from corank.core.errors import ConfigError, StoreError
from corank.core.settings import validate
from corank.funnel.funnel import Funnel
from corank_serve.http import circuit_breaker
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import CanaryShare, Limits, ServeSettings
from corank_serve.http.versions import Rollout
from corank_serve.http.worker import RankingService
from corank_serve.log.request_log import open_logs
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
from corank_serve.store.source import BundleSource, StoreSource
from corank_serve.store.upsert import upsert
from tests.support.bundle_versions import variant
from tests.support.service import TOKEN, access
from tests.support.shared import derived
from tests.support.stores import item, opened, requests
from tests.support.waiting import eventually

NAME = "0123456789abcdef-1-1a2b3c4d"


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

    def __init__(self, store: Store, cache: Path, canary: str | None, shadow: str | None, log: Path) -> None:
        self.said: list[str] = []
        source = StoreSource(store, cache, report=self.said.append)
        self.rollout = Rollout(source, canary, shadow, self.said.append)
        self.follower = Follower(source, 60.0, self.said.append, self.rollout)
        logs = open_logs(log, roles=["live", *(one.role for one in self.rollout.candidates)])
        self.service = RankingService(self.follower, Limits(), access(), request_logs=logs)

    def rank(self, user: int, number: int = 0) -> dict[str, Any]:
        asked = requests()[number]
        response = self.client.post(
            "/rank", json=asked | {"user": asked["user"] | {"id": user}, "trace": False}
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def metrics(self) -> str:
        return str(self.client.get("/metrics").text)

    def beside(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.client.get("/status").json()["beside"]
        return entries


@contextmanager
def serving(
    store: Store, folder: Path, canary: str | None = None, shadow: str | None = None
) -> Iterator[Service]:
    service = Service(store, folder / "cache", canary, shadow, folder / "log")
    with TestClient(service.service.app()) as service.client:
        yield service


# Items meanwhile


@pytest.mark.parametrize("beside", [False, True])
def test_items_are_taken_from_when_a_version_goes_live_until_it_is_served(
    store: Store, versions: tuple[str, str], tmp_path: Path, beside: bool
) -> None:
    """By the rows alone; with a canary and a shadow, too, which are the versions before and after."""
    live, staged = versions
    names = (f"{live}:50%", staged) if beside else (None, None)
    with serving(store, tmp_path, *names) as service:
        promote_version(store, staged)  # which is not seen before something wakes the follower

        def put(*rows: dict[str, Any]) -> dict[str, Any]:
            reply = service.client.post("/items", json={"items": rows}, headers=TOKEN)
            assert reply.status_code == 200, reply.text
            answer: dict[str, Any] = reply.json()
            return answer

        assert put(item(3, 99), item(4, 98)) == {"items": 2, "items_seq": 3, "live": False}
        eventually(lambda: service.client.get("/version").json()["items_seq"] == 3)
        assert service.client.get("/version").json()["model_version"] == f"{2:016x}"
        assert put(item(5, 97)) == {"items": 1, "items_seq": 4}
        served = [service.follower.funnel, *(one.funnel for one in service.rollout.candidates if one.funnel)]
        for funnel in served:
            assert all(funnel.describe_item(id_) is not None for id_ in ("99", "98", "97"))
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


# Who gets it


def test_a_share_is_read_and_deals_the_same_users_ever_more_of_them() -> None:
    share = CanaryShare.parse(f"{NAME}:5%")
    assert (share.version, share.share) == (NAME, 0.05)
    taken = {user for user in range(20_000) if share.takes(user)}
    assert abs(len(taken) / 20_000 - 0.05) < 0.005
    more = CanaryShare(NAME, 0.2)
    assert all(more.takes(user) for user in taken)
    assert {user for user in range(20_000) if CanaryShare(NAME[:-1] + "e", 0.05).takes(user)} != taken
    assert all(share.takes(str(user)) for user in taken) and not share.takes(None)
    # a hash that is the same in every process and release
    assert sorted(taken)[:5] == [16, 18, 43, 44, 53]


@pytest.mark.parametrize("text", [NAME, f"{NAME}:0%", f"{NAME}:100%", "../b:5%", f"{NAME}:-1%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="canary: expected VERSION:SHARE%, such as"):
        validate(ServeSettings, {"source": "lmdb:x", "cache": "c", "canary": text}, "corank serve")


def test_versions_are_of_a_store_that_has_them(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is a bundle, and has one version"):
        Rollout(BundleSource(derived().base / "bundle"), None, "other")
    source = StoreSource(store, tmp_path / "cache")
    with pytest.raises(
        StoreError, match=f"--shadow: .*no version 'other'; there are {versions[0]}, {versions[1]}"
    ):
        Rollout(source, None, "other").check_versions()
    Rollout(source, f"{versions[1]}:1%", versions[0]).check_versions()


def test_the_canary_answers_its_users_alone_and_follows_items(
    store: Store, versions: tuple[str, str], second: Path, tmp_path: Path
) -> None:
    _, staged = versions
    share = CanaryShare(staged, 0.5)
    with serving(store, tmp_path, f"{staged}:50%") as service:
        models = {"live": derived().funnel.manifest.model_version, "canary": f"{2:016x}"}
        ours = {"live": derived().funnel, "canary": Funnel.open(second)}
        for user in range(12):
            answer = service.rank(user)
            assert answer["role"] == ("canary" if share.takes(user) else "live")
            assert answer["model_version"] == models[answer["role"]]
        anonymous = service.client.post("/rank", json=requests()[0] | {"user": {}}).json()
        assert anonymous["role"] == "live"
        # items that come under the live version are known to the canary
        rows = [item(3, 99), item(4, 98)]
        assert service.client.post("/items", json={"items": rows}, headers=TOKEN).status_code == 200
        service.follower.refresh()
        for funnel in (service.follower.funnel, service.rollout.canary.funnel):  # type: ignore[union-attr]
            assert funnel is not None and funnel.describe_item("99") is not None
            assert funnel.manifest.items_seq == 2
        assert ours["canary"].describe_item("99") is None
        (canary,) = service.beside()
        assert canary["situation"] == "served" and canary["share"] == 0.5 and canary["served_seq"] == 2
        assert f'corank_version{{model_version="{models["canary"]}",role="canary"}} 1.0' in service.metrics()
        assert list(read_leases(store)[0]) == [staged]
        assert remove_versions(store, 0) == []
    logged = pl.read_parquet(tmp_path / "log" / "served-*.parquet")
    assert set(logged["served_role"]) == {"live", "canary"}
    assert logged.group_by("served_role").agg(pl.col("model_version").unique()).height == 2


def test_the_canary_ends_when_it_goes_live_is_withdrawn_or_gone(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    live, staged = versions
    user = next(user for user in range(100) if CanaryShare(staged, 0.5).takes(user))
    with serving(store, tmp_path, f"{staged}:50%") as service:
        assert service.rank(user)["role"] == "canary"
        promote_version(store, staged)
        service.follower.refresh()
        answer = service.rank(user)
        assert (answer["role"], answer["model_version"]) == ("live", f"{2:016x}")
        assert service.beside()[0]["situation"] == "live"
        # whoever is rolled back is a canary no more, and after a restart neither
        roll_back_store(store)
        service.follower.refresh()
        assert service.rank(user)["model_version"] == derived().funnel.manifest.model_version
        assert service.beside()[0]["situation"] == "withdrawn"
    with serving(store, tmp_path, f"{staged}:50%") as service:
        assert service.rank(user)["role"] == "live"
        promote_version(store, staged)
        roll_back_store(store, live)
        withdraw_version(store, staged)
        assert remove_versions(store, 0) == []  # by the lease of the service before
        store.drop(LEASES)
        assert remove_versions(store, 0) == [staged]
        service.follower.refresh()
        assert service.rank(user)["role"] == "live"
        (canary,) = service.beside()
        assert canary["situation"] == "missing" and "no version" in canary["error"]
    assert any("was withdrawn; its users get the live version" in line for line in service.said)


def test_a_canary_that_fails_is_answered_for_by_the_live_version(
    store: Store, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, staged = versions
    user = next(user for user in range(100) if CanaryShare(staged, 0.5).takes(user))
    with serving(store, tmp_path, f"{staged}:50%") as service:
        canary = service.rollout.canary
        assert canary is not None and canary.funnel is not None

        def fail(*_: object, bounded: bool) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(circuit_breaker, "PAUSE_SECONDS", 3600.0)
        monkeypatch.setattr(canary.funnel, "run_many", fail)
        for _ in range(8):
            assert service.rank(user)["role"] == "live"
        assert service.beside()[0]["failing"]
        failed = (
            'corank_version_errors_total{model_version="0000000000000002",role="canary",why="failed"} 5.0'
        )
        assert failed in service.metrics()
        assert service.said[-1].endswith("of its last 20 requests 5 failed; its users get the live version")
        monkeypatch.undo()
        service.rollout.breaker._probe_at = 0.0
        assert [service.rank(user)["role"] for _ in range(2)] == ["canary", "canary"]
        assert service.said[-1] == f"canary {staged} answers again"
        # a request that both refuse is the client's mistake
        refused = service.client.post("/rank", json={"user": {"id": user}, "candidates": [1, 1]})
        assert refused.status_code == 400 and 'why="refused"' not in service.metrics()


def test_a_version_that_cannot_be_loaded_is_told_and_tried_again(
    store: Store, versions: tuple[str, str], tmp_path: Path
) -> None:
    _, staged = versions
    keys = [key for pairs in store.scan(f"items/{staged}") for key, _ in pairs]
    (record,) = store.get(f"items/{staged}", keys[:1])
    assert record is not None
    store.put({f"items/{staged}": [(keys[0], b"?" * len(record))]})
    with serving(store, tmp_path, f"{staged}:50%", staged) as service:
        assert {service.rank(user)["role"] for user in range(10)} == {"live"}
        assert [one["situation"] for one in service.beside()] == ["unavailable", "unavailable"]
        assert all(one["error"] for one in service.beside())
        assert sum("serving the live version alone" in line for line in service.said) == 2
        store.put({f"items/{staged}": [(keys[0], record)]})
        service.rollout.canary._retry_at = 0.0  # type: ignore[union-attr]
        service.follower.refresh()
        assert service.beside()[0]["situation"] == "served"


# The shadow


def test_the_shadow_ranks_what_was_answered_and_is_logged_beside(
    store: Store, versions: tuple[str, str], second: Path, tmp_path: Path
) -> None:
    _, staged = versions
    with serving(store, tmp_path, shadow=staged) as service:
        answers = [service.rank(7, number) for number in range(6)]
        assert {answer["role"] for answer in answers} == {"live"}
        eventually(lambda: 'corank_shadow_requests_total{outcome="scored"} 6.0' in service.metrics())
        assert "corank_shadow_overlap_count 6.0" in service.metrics()
    served = pl.read_parquet(tmp_path / "log" / "served-*.parquet")
    shadow = pl.read_parquet(tmp_path / "log" / "shadow" / "served-*.parquet")
    assert {answer["served_id"] for answer in answers} == set(served["served_id"]) == set(shadow["served_id"])
    assert set(shadow["served_role"]) == {"shadow"} and set(shadow["model_version"]) == {f"{2:016x}"}
    both = served.join(shadow, on=["served_id", "item_id"], suffix="_shadow")
    assert len(both) == len(served) == len(shadow)
    assert (both["time"] == both["time_shadow"]).all()
    assert not np.array_equal(both["score_prerank"], both["score_prerank_shadow"])


def test_the_shadow_waits_for_idle_time_drops_what_is_too_much_and_may_fail(
    store: Store, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(store, tmp_path, shadow=versions[1]) as service:
        queue = service.service.ranking.shadow
        assert queue is not None
        busy = True
        queue._is_idle = lambda: not busy
        for _ in range(66):
            service.rank(1)
        figures = service.metrics()
        assert 'corank_shadow_requests_total{outcome="dropped"} 2.0' in figures
        assert 'outcome="scored"' not in figures
        busy = False
        eventually(lambda: 'corank_shadow_requests_total{outcome="scored"} 64.0' in service.metrics())
        shadow = service.rollout.shadow
        assert shadow is not None and shadow.funnel is not None
        monkeypatch.setattr(shadow.funnel, "run", lambda *_: 1 / 0)
        service.rank(1)
        eventually(lambda: 'corank_shadow_requests_total{outcome="failed"} 1.0' in service.metrics())
        assert service.rank(1)["role"] == "live"
