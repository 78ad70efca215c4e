"""A store or a disk that is slow, hangs, stops or loses writes: only what needs it goes without, and comes back.

The benchmark `chaos` does the same under load.
"""

import asyncio
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import polars as pl
import pytest

from corank_serve.http.circuit_breaker import BAD
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.state import WRITERS
from corank_serve.http.user_lookup import LIMIT, THREADS, UserLookup
from corank_serve.http.worker import RankingService
from corank_serve.store.base import open_store
from corank_serve.store.live_version import USERS
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import to_keys
from corank_serve.store.source import StoreSource
from tests.support.random_worlds import RICH
from tests.support.redis_server import Server, redis_server
from tests.support.service import TOKEN, access, running_service, workers_of
from tests.support.shared import derived, shared_case
from tests.support.store_faults import SlowProxy, full_disk
from tests.support.stores import following, records
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

STORED = {"user": {"id": 1}, "candidates": [1]}
"""A request whose user is in the store."""
WITHOUT = {"user": {}, "candidates": [1]}
"""One that needs no store."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis with a live version and a user."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, keeps=True) as server:
        with closing(open_store(server.url)) as store:
            publish_bundle(shared_case(RICH).base / "bundle", store)
            store.put({USERS: [(to_keys(pl.Series([1]))[0], b'{"user_0": 5.0}')]})
        yield server


def test_a_full_disk_under_the_cache_keeps_the_version_that_is_served(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as store:
        first = publish_bundle(derived().base / "bundle", store)
        with running_service(url, tmp_path / "cache", "--every", "0.1") as (address, process):

            def ask(path: str) -> dict[str, Any]:
                answer = httpx2.get(f"{address}{path}")
                assert answer.status_code == 200
                ranking: dict[str, Any] = answer.json()
                return ranking

            model = ask("/version")["model_version"]
            with full_disk(*(worker.pid for worker in workers_of(process))):
                second = publish_bundle(shared_case(RICH).base / "bundle", store)
                eventually(lambda: not ask("/status")["source_up"])
                assert ask("/readyz")["ready"] is True
                assert ask("/version")["model_version"] == model
            eventually(lambda: bool(ask("/version")["model_version"] != model))
            # The new version answers a moment before the check that brought it has ended.
            eventually(lambda: bool(ask("/status")["source_up"]))
            assert first != second


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
        before = records(follower.funnel)
        shutil.copytree(data, older)
        with closing(open_store(server.url)) as store:
            publish_bundle(derived().base / "bundle", store)
        follower.refresh()
        assert records(follower.funnel) != before
        server.kill()
        follower.refresh()
        assert follower.trouble is not None
        shutil.rmtree(data)
        shutil.copytree(older, data)
        server.start()
        follower.refresh()
        assert follower.trouble is None and records(follower.funnel) == before


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """The server stopped by SIGSTOP: connections are accepted, nothing is answered."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def client_of(server: Server, cache: Path, users: UserLookup) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service in this process."""
    source = StoreSource(server.url, cache)
    follower = Follower(source, every=0.05)
    service = RankingService(follower, Limits(), access(), users).app()
    transport = httpx2.ASGITransport(app=service)
    async with (
        service.lifespan(),
        httpx2.AsyncClient(transport=transport, base_url="http://here") as client,
    ):
        yield client


def lookup_of(server: Server) -> UserLookup:
    """Look-ups for which requests wait as long as the server hangs."""
    return UserLookup(partial(open_store, f"{server.url}?socket_timeout={PATIENCE:g}"), PATIENCE)


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> str:
    """The field `user` of the answer."""
    answer = await client.post("/rank", json=body)
    assert answer.status_code == 200
    return str(answer.json()["user"])


async def until_looked_up(client: httpx2.AsyncClient) -> None:
    """Ask until users are found again, as clients do that continue."""
    async with asyncio.timeout(PATIENCE):
        while await ask(client, STORED) != "stored":
            await asyncio.sleep(0.05)


@pytest.mark.store
def test_requests_without_a_user_pass_those_that_wait_for_one(server: Server, tmp_path: Path) -> None:
    async def check() -> None:
        async with client_of(server, tmp_path / "cache", lookup_of(server)) as client:
            with hanging(server):
                waiting = [asyncio.create_task(ask(client, STORED)) for _ in range(3)]
                assert (await client.get("/healthz")).status_code == 200
                assert await ask(client, WITHOUT) == "new"
                assert not any(task.done() for task in waiting)
            assert await asyncio.gather(*waiting) == ["stored"] * 3

    asyncio.run(check())


@pytest.mark.store
def test_after_a_few_late_answers_nobody_waits_until_a_probe_succeeds(server: Server, tmp_path: Path) -> None:
    async def check() -> None:
        users = lookup_of(server)
        async with client_of(server, tmp_path / "cache", users) as client:
            assert await ask(client, STORED) == "stored"
            with hanging(server):
                users.seconds = 0.05
                answers = [await ask(client, STORED) for _ in range(3 * BAD)]
                assert answers == ["unavailable"] * (3 * BAD)
                figures = (await client.get("/metrics")).text
                assert f'corank_user_lookups_total{{outcome="late"}} {BAD:.1f}' in figures
                assert f'corank_user_lookups_total{{outcome="skipped"}} {2 * BAD:.1f}' in figures
                assert "corank_users_away 1.0" in figures
                assert not (await client.get("/status")).json()["users_looked_up"]
            users.seconds = PATIENCE
            await until_looked_up(client)
            assert (await client.get("/status")).json()["users_looked_up"]
            assert "corank_users_away 0.0" in (await client.get("/metrics")).text

    asyncio.run(check())


@pytest.mark.store
def test_threads_and_waiting_calls_are_bounded(server: Server, tmp_path: Path) -> None:
    item = {"items": [{"id": 900}]}

    async def check() -> None:
        async with client_of(server, tmp_path / "cache", lookup_of(server)) as client:
            before = threading.active_count()
            with hanging(server):
                asked = [asyncio.create_task(ask(client, STORED)) for _ in range(3 * LIMIT)]
                writes = asyncio.gather(
                    *(client.post("/items", json=item, headers=TOKEN) for _ in range(3 * LIMIT))
                )
                async with asyncio.timeout(PATIENCE):
                    while sum(one.done() for one in asked) < 2 * LIMIT:
                        await asyncio.sleep(0.05)
                assert threading.active_count() <= before + THREADS + WRITERS
                assert 'corank_user_lookups_total{outcome="busy"}' in (await client.get("/metrics")).text
            assert Counter(await asyncio.gather(*asked)) == {"stored": LIMIT, "unavailable": 2 * LIMIT}
            statuses = Counter(one.status_code for one in await writes)
            assert statuses.keys() <= {200, 503} and statuses[503] >= LIMIT

    asyncio.run(check())


@pytest.mark.store
def test_a_reload_says_that_the_source_cannot_be_read(server: Server, tmp_path: Path) -> None:
    async def check() -> None:
        async with client_of(server, tmp_path / "cache", lookup_of(server)) as client:
            with hanging(server):
                refused = await client.post("/reload", headers=TOKEN)
                assert refused.status_code == 503 and "cannot be reached" in refused.json()["error"]
                assert (await client.get("/readyz")).status_code == 200

    asyncio.run(check())


@pytest.mark.store
def test_the_service_ends_while_its_store_hangs(server: Server, tmp_path: Path) -> None:
    with (
        running_service(server.url, tmp_path / "cache", "--every", "0.05") as (url, process),
        hanging(server),
    ):
        assert httpx2.post(f"{url}/rank", json=STORED).json()["user"] == "unavailable"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
