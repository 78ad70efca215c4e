"""The Redis store's own faults: servers that stop, refuse, are full or are replicas."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from corank.core.errors import StoreError
from corank_serve.store.base import Entries, open_store
from corank_serve.testing import content, numbered
from tests.support.redis_server import Server, redis_server
from tests.support.stores import open_hasty
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_a_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    with redis_server(tmp_path, keeps=True) as server, closing(open_store(server.url)) as store:
        assert store.address == server.url
        for end in (server.stop, server.kill):
            store.put({"a": numbered(3000)})
            assert store.swap(store.head(), b"1")
            end()
            with pytest.raises(
                StoreError, match=rf"{server.url}: the server cannot be reached: .*start it, or"
            ):
                store.head()
            for call in (
                lambda: store.put({"a": [(b"k", b"")]}),
                lambda: store.swap(b"1", b"2"),
                lambda: store.get("a", [b"k"]),
                lambda: list(store.scan("a")),
                lambda: store.count("a"),
                lambda: store.drop("a"),
                lambda: store.tables(),
                lambda: open_store(server.url),
            ):
                with pytest.raises(StoreError, match="the server cannot be reached"):
                    call()
            server.start()
            assert store.head() == b"1" and store.tables() == ["a"]
            assert content(store, "a") == dict(numbered(3000))


def test_a_write_whose_answer_is_lost_may_have_been_made(server: Server) -> None:
    url = f"{server.url}?prefix={uuid4().hex}"
    with (
        closing(open_store(url)) as store,
        closing(open_hasty(url)) as hasty,
        redis.Redis.from_url(server.url) as operator,
    ):
        lost = "connection was lost: .*; what was sent may or may not have been written"
        for write in (lambda: hasty.put({"a": [(b"k", b"")]}), lambda: hasty.swap(None, b"1")):
            operator.client_pause(round(1e3 * PATIENCE), all=False)
            with pytest.raises(StoreError, match=lost):
                write()
            assert store.head() is None
            operator.client_unpause()
        assert store.swap(store.head(), b"2")


def test_a_password_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "sec:ret/@%") as server:
        place = server.url.removeprefix("redis://")
        with closing(open_store(f"redis://:sec%3Aret%2F%40%25@{place}/3?prefix=p")) as store:
            assert store.address == f"redis://{place}/3?prefix=p"
            assert store.swap(None, b"1")
        with closing(open_store(f"redis://{place}/3?password=sec%3Aret%2F%40%25&prefix=p")) as store:
            assert store.address == f"redis://{place}/3?password=…&prefix=p"
            assert store.head() == b"1"
        for wrong in ("", ":secret@", "user:secret@"):
            with pytest.raises(StoreError, match=r"the server refuses: .*; check user, password") as raised:
                open_store(f"redis://{wrong}{place}")
            assert "secret" not in str(raised.value) and place in str(raised.value)
        faults = [":se/cret@", ":cret#@", "a:cret?@", ":cret]@", "cret/@"]
        urls = [f"{one}{place}" for one in faults]
        for url in (*urls, f"{place}?socket_timeout=long", f"{place}?colour=blue"):
            with pytest.raises(StoreError, match=r"in a password percent-encoded, and options") as raised:
                open_store(f"redis://{url}")
            assert "cret" not in str(raised.value) and place in str(raised.value)


def test_a_server_out_of_memory_writes_nothing_in_part(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory", "8mb") as server, closing(open_store(server.url)) as store:
        made = 0

        def entries() -> Entries:
            return {table: [(b"%d-%d" % (made, k), b"x" * 100) for k in range(1500)] for table in ("a", "b")}

        with pytest.raises(StoreError, match=r"out of memory, nothing was written; raise maxmemory or drop"):
            while made < 1000:
                store.put(entries())
                made += 1
        assert made > 0 and store.count("a") == store.count("b") == made * 1500
        with pytest.raises(StoreError, match="out of memory"):
            store.swap(None, b"1", entries(), {"a": [b"0-0"]})
        assert store.head() is None and store.count("a") == made * 1500
        store.drop("a")
        store.put({"c": [(b"k", b"")]})


def test_a_replica_is_read_only(tmp_path: Path) -> None:
    replica = redis_server(tmp_path, "--replicaof", "127.0.0.1 1")
    with replica as server, closing(open_store(server.url)) as store:
        assert store.head() is None
        with pytest.raises(
            StoreError, match="the server is a replica, nothing was written; give the address of"
        ):
            store.put({"a": [(b"k", b"")]})


def test_prefixes_part_the_stores_of_a_server(server: Server) -> None:
    base = uuid4().hex
    urls = [f"{server.url}?prefix={base}{mark}" for mark in ("", "%2A", "%5Bx%5D", "%3F", "%5C", ":t")]
    for url in urls:
        with closing(open_store(url)) as store:
            store.put({url: [(b"k", b"")]})
            assert store.swap(None, url.encode())
    for url in urls[1:]:
        with closing(open_store(url)) as store:
            assert store.tables() == [url] and store.head() == url.encode()
    with closing(open_store(server.url)) as store, redis.Redis.from_url(server.url) as client:
        store.put({"a": [(b"k", b"")]})
        assert client.keys("corank:*") == [b"corank:t:a"]


def test_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    with redis_server(folder, "--unixsocket", str(folder / "s")):
        with closing(open_store(f"unix://{folder / 's'}?prefix=p")) as store:
            store.put({"a": [(b"k", b"v")]})
            assert content(store, "a") == {b"k": b"v"}
        with pytest.raises(StoreError, match=r"nobody: the server cannot be reached"):
            open_store(f"unix://{folder / 'nobody'}")
