"""A follower equals its store after all that a store or a disk may do; the benchmark `chaos` does it under load."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import polars as pl
import pytest

from corank.serving.funnel.funnel import Funnel
from corank.serving.http.follower import Follower
from corank.serving.store.base import Store, open_store
from corank.serving.store.fetch import fetch_bundle, load_latest
from corank.serving.store.live_version import USERS, StoreState
from corank.serving.store.publish import publish_bundle
from corank.serving.store.record_codec import to_keys
from corank.serving.store.upsert import upsert
from tests.support.random_worlds import RICH
from tests.support.redis_server import Server, redis_server
from tests.support.service import TOKEN, running_service, workers_of
from tests.support.shared import derived, shared_case
from tests.support.store_faults import SlowProxy, dump, full_disk, restore_dump
from tests.support.stores import following, item, records
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

BUNDLE = "bundle"


def put(store: Store, worth: float) -> None:
    """Upsert an item of a worth."""
    _, state = StoreState.read(store)
    upsert(store, state.require_live(store), Funnel.open(derived().base / BUNDLE), [item(0, worth=worth)])


def stored(store: Store, cache: Path) -> tuple[int, dict[bytes, bytes]]:
    """The last change and all items of a store, read anew."""
    live = StoreState.read(store)[1].require_live(store)
    funnel = load_latest(store, live, Funnel(fetch_bundle(store, live, cache)))
    return funnel.manifest.items_seq, records(funnel)


def held(follower: Follower) -> tuple[int, dict[bytes, bytes]]:
    """The last change and all items that a follower serves, after it has checked its source."""
    follower.refresh()
    assert follower.trouble is None
    return follower.funnel.manifest.items_seq, records(follower.funnel)


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.store)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store with a live version and an upserted item."""
    if request.param == "redis":
        with redis_server(tmp_path) as server:
            yield from published(server.url)
    else:
        yield from published(f"lmdb:{tmp_path / 'store'}")


def published(url: str) -> Iterator[str]:
    """The URL, once something is live there."""
    with closing(open_store(url, create=True)) as store:
        publish_bundle(derived().base / BUNDLE, store)
        put(store, 1.0)
    yield url


def test_after_lost_writes_and_as_many_new_ones_the_follower_has_the_new_ones(
    url: str, tmp_path: Path
) -> None:
    with following(url, tmp_path / "cache") as follower, closing(open_store(url)) as store:
        head, tables = store.head(), dump(store)
        put(store, 2.0)
        lost = held(follower)
        restore_dump(store, head, tables)
        put(store, 3.0)
        assert held(follower) == stored(store, tmp_path / "anew") != lost


def test_a_store_that_is_empty_and_filled_again_is_followed(url: str, tmp_path: Path) -> None:
    with following(url, tmp_path / "cache") as follower, closing(open_store(url)) as store:
        restore_dump(store, b"{}", {})
        follower.refresh()
        assert follower.trouble is not None and "nothing is live" in follower.trouble
        publish_bundle(derived().base / BUNDLE, store)
        put(store, 4.0)
        assert held(follower) == stored(store, tmp_path / "anew")


def test_after_lost_writes_alone_the_follower_has_what_is_left(url: str, tmp_path: Path) -> None:
    with following(url, tmp_path / "cache") as follower, closing(open_store(url)) as store:
        head, tables = store.head(), dump(store)
        put(store, 2.0)
        lost = held(follower)
        restore_dump(store, head, tables)
        assert held(follower) == stored(store, tmp_path / "anew") != lost


def test_a_full_disk_under_the_cache_keeps_the_version_that_is_served(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as store:
        first = publish_bundle(derived().base / BUNDLE, store)
        with running_service(url, tmp_path / "cache", "--every", "0.1") as (address, process):

            def ask(path: str) -> dict[str, Any]:
                answer = httpx2.get(f"{address}{path}")
                assert answer.status_code == 200
                ranking: dict[str, Any] = answer.json()
                return ranking

            model = ask("/version")["model_version"]
            with full_disk(*(worker.pid for worker in workers_of(process))):
                second = publish_bundle(shared_case(RICH).base / BUNDLE, store)
                eventually(lambda: not ask("/status")["source_up"])
                assert ask("/readyz") == {"ready": True}
                assert ask("/version")["model_version"] == model
            eventually(lambda: bool(ask("/version")["model_version"] != model))
            # The new version answers a moment before the check that brought it has ended.
            eventually(lambda: bool(ask("/status")["source_up"]))
            assert first != second


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis with a live version and a user."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, keeps=True) as server:
        with closing(open_store(server.url)) as store:
            publish_bundle(shared_case(RICH).base / BUNDLE, store)
            store.put({USERS: [(to_keys(pl.Series([1]))[0], b'{"user_0": 5.0}')]})
        yield server


@pytest.mark.store
def test_a_store_whose_answers_are_late_is_followed_and_delays_nobody(server: Server, tmp_path: Path) -> None:
    proxy = SlowProxy(server.port)
    options = ("--every", "0.1", "--store-deadline-ms", "200")
    with running_service(f"redis://127.0.0.1:{proxy.port}", tmp_path / "cache", *options) as (url, _):

        def ask(user: dict[str, Any]) -> str:
            answer = httpx2.post(f"{url}/rank", json={"user": user, "candidates": [1]})
            assert answer.status_code == 200
            return str(answer.json()["user"])

        eventually(lambda: ask({"id": 1}) == "stored")
        proxy.delay = 0.5
        while httpx2.get(f"{url}/status").json()["users_looked_up"]:
            assert ask({"id": 1}) == "unavailable"
        assert ask({"id": 1}) == "unavailable" and ask({}) == "new"
        seq = httpx2.get(f"{url}/version").json()["items_seq"]
        upserted = httpx2.post(f"{url}/items", json={"items": [{"id": 900}]}, headers=TOKEN)
        assert (upserted.status_code, upserted.json()["items_seq"]) == (200, seq + 1)
        eventually(lambda: bool(httpx2.get(f"{url}/version").json()["items_seq"] == seq + 1))
        proxy.delay = 0.0
        eventually(lambda: ask({"id": 1}) == "stored")


@pytest.mark.store
def test_a_server_that_was_killed_and_lost_its_last_writes_is_followed(
    server: Server, tmp_path: Path
) -> None:
    data, older = tmp_path / "redis" / "appendonlydir", tmp_path / "older"
    with following(server.url, tmp_path / "cache") as follower:
        shutil.copytree(data, older)
        with closing(open_store(server.url)) as store:
            publish_bundle(derived().base / BUNDLE, store)
        lost = held(follower)
        server.kill()
        follower.refresh()
        assert follower.trouble is not None
        shutil.rmtree(data)
        shutil.copytree(older, data)
        server.start()
        with closing(open_store(server.url)) as store:
            assert held(follower) == stored(store, tmp_path / "anew") != lost
