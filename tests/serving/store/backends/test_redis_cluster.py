"""The faults of a cluster: slots that move, servers that fail, replicas that lag, addresses that are none."""

import gc
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import httpx2
import pytest
from redis.crc import key_slot

from corank.core.errors import StoreError
from corank_serve.store import redis_cluster_connection as cluster_connection
from corank_serve.store.backends.redis_cluster import RedisClusterStore
from corank_serve.store.base import Pairs, open_store
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.retention import remove_versions
from corank_serve.store.source import StoreSource
from corank_serve.store.upsert import upsert
from corank_serve.testing import content, numbered
from tests.support.redis_cluster import Cluster, start_cluster
from tests.support.redis_server import redis_server
from tests.support.service import TOKEN, running_service
from tests.support.shared import derived
from tests.support.stores import Between, item, open_hasty, records, served, worths
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.store]
N = 20_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for this module alone, since its servers fail."""
    with ExitStack() as stack:
        yield start_cluster(stack, tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def store(cluster: Cluster) -> Iterator[RedisClusterStore]:
    with closing(RedisClusterStore(cluster.url, create=True)) as opened:
        yield opened


def address(cluster: Cluster, prefix: str, options: str = "") -> str:
    return f"{cluster.url.partition('?')[0]}?prefix={prefix}{options}"


def open_sockets(cluster: Cluster) -> list[socket.socket]:
    """Of this process, to the cluster's servers, but those of the tests' own clients."""
    own = {
        id(link._sock) for client in cluster.clients for link in client.connection_pool._available_connections
    }
    ports = {server.port for server in cluster.servers}
    sockets = [x for x in gc.get_objects() if isinstance(x, socket.socket) and id(x) not in own]
    return [
        x for x in sockets if x.fileno() >= 0 and x.family == socket.AF_INET and x.getpeername()[1] in ports
    ]


def test_what_is_written_with_the_head_is_in_its_slot_and_items_are_everywhere(
    cluster: Cluster, store: RedisClusterStore
) -> None:
    together, spread = ["changed/v", "journal", "log"], ["items/v", "parts/v", "users"]
    store.put({name: numbered(3000) for name in (*together, *spread)})
    assert store.swap(None, b"1")
    keys = [[key for key in cluster.call(n, "KEYS", "*") if store._prefix in key] for n in range(4)]
    one = [key for some in keys for key in some if b"/" not in key.partition(b"}")[0]]
    ends = [":head", *(f":t:{name}" for name in together)]
    assert {*one} == {b"{%b}%b" % (store._prefix, end.encode()) for end in ends}
    assert len({key_slot(key) for key in one}) == 1
    counts = [sum(b":b:items/v" in key for key in some) for some in keys]
    assert len({key_slot(key) for some in keys for key in some if b":b:items/v" in key}) > 900
    assert all(250 < count < 430 for count in counts)
    assert store.count("items/v") == 3000 and store.tables() == sorted([*together, *spread])


def test_a_swap_writes_spread_tables_too_unless_it_is_late(store: RedisClusterStore) -> None:
    store.put({"items/a": numbered(50)})
    entries, gone = {"items/a": [(b"k", b"1")], "a": [(b"k", b"1")]}, {"items/a": [b"000007"], "a": [b"x"]}
    assert not store.swap(b"late", b"1", entries, gone)
    assert store.head() is None and content(store, "items/a") == dict(numbered(50)) and store.count("a") == 0
    assert store.swap(None, b"1", entries, gone)
    assert (
        store.get("items/a", [b"000007", b"k", b"000008"]) == [None, b"1", b""]
        and store.count("items/a") == 50
    )


def test_a_service_takes_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.url  # of a new store each time
    with closing(open_store(url)) as store:
        publish_bundle(derived().base / "bundle", store)
    with running_service(url, tmp_path / "cache") as (at, _):
        assert httpx2.post(f"{at}/rank", json=derived().request("test", 0)).status_code == 200
        put = httpx2.post(f"{at}/items", json={"items": [item(3, 90)]}, headers=TOKEN)
        assert put.status_code == 200 and put.json()["items_seq"] == 2


# Addresses


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("127.0.0.1/0", "without a database"),
        ("127.0.0.1:port", "expected redis\\+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT"),
        ("127.0.0.1?colour=blue", "options of redis-py"),
        ("127.0.0.1?db=1", "can only be 0"),
        ("127.0.0.1?prefix={a}", r"prefix: expected one without braces; received '\{a\}'"),
        ("127.0.0.1?replicas=-1", "replicas: expected a number from 0 to 99; received '-1'"),
        ("127.0.0.1:1,127.0.0.1:2", "the server cannot be reached: .*; start it, or check"),
        (":se?cret@127.0.0.1", "in a password percent-encoded"),
    ],
)
def test_an_address_that_is_none(rest: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        open_store(f"redis+cluster://{rest}")
    assert "cret" not in str(raised.value) and "127.0.0.1" in str(raised.value)


def test_a_server_that_is_of_no_cluster_and_one_of_a_cluster_taken_for_one_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    with (
        redis_server(tmp_path) as server,
        pytest.raises(
            StoreError, match="Cluster mode is not enabled on this node; give redis://HOST:PORT of"
        ),
    ):
        open_store(server.url.replace("redis", "redis+cluster"))
    server = cluster.servers[(cluster.owner(b"corank:head") + 1) % 2]
    elsewhere = pytest.raises(StoreError, match=r"is one of a cluster; give redis\+cluster://HOST:PORT")
    with closing(open_store(server.url)) as store, elsewhere:
        store.head()


def test_a_password(cluster: Cluster) -> None:
    for client in cluster.clients:
        client.execute_command("ACL", "SETUSER", "someone", "on", ">s:e/c", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">s:e/c", "~*", "+@all", "-hset")
    url = address(cluster, "p")
    with closing(open_store(url.replace("://", "://someone:s%3Ae%2Fc@"))) as store:
        assert store.address == url
        store.put({"items/a": numbered(100)})
    with pytest.raises(StoreError, match=r"the server refuses: .*; check user, password") as raised:
        open_store(url.replace("://", "://someone:secret@"))
    assert "secret" not in str(raised.value)
    with closing(open_store(url.replace("://", "://reader:s%3Ae%2Fc@"))) as store:
        for table in ("items/a", "a"):
            with pytest.raises(
                StoreError, match=r"the server refuses: .*hset.*; check user, password and their"
            ):
                store.put({table: [(b"k", b"")]})


# Slots move


def test_slots_move_while_a_store_is_read_and_written(cluster: Cluster, store: RedisClusterStore) -> None:
    store.put({"items/v": numbered(N, b"1"), "a": numbered(3, b"1")})
    some = store._hash("items/v", 3)
    source = cluster.owner(some)
    target = next(n for n in range(4) if n not in (source, cluster.pair()[1]))
    keys = [key for key, _ in numbered(N)]
    value = b"1"
    for there, back in ((source, target), (target, source)):
        for step in cluster.move_slot(key_slot(some), there, back):
            assert {*store.get("items/v", keys)} == {value} and store.count("items/v") == N
            value = b"%d" % step
            store.put({"items/v": numbered(N, value)})
            assert {*store.get("items/v", keys)} == {value} == {*content(store, "items/v").values()}
        assert cluster.owner(some) == back
    store.drop("items/v")
    assert store.tables() == ["a"]


def test_a_scan_goes_on_at_the_new_server_of_a_slot(
    cluster: Cluster, store: RedisClusterStore, tmp_path: Path
) -> None:
    """A new server has no slot, and so no client knows it: an ASK names it."""
    table = store._hash("a")
    home = cluster.owner(table)
    store.put({"a": numbered(5000)})
    with cluster.joined(tmp_path) as new:
        for source, target in ((home, new), (new, home)):
            moving, seen, batches = (
                cluster.move_slot(key_slot(table), source, target),
                dict[bytes, bytes](),
                0,
            )
            for batch in store.scan("a"):
                seen |= dict(batch)
                batches += 1
                next(moving, None)
            assert seen == dict(numbered(5000)) and batches > 5
            assert [*moving] == [] and cluster.owner(table) == target


def test_a_transaction_waits_until_its_slot_has_moved(
    cluster: Cluster, store: RedisClusterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned_away = Event()

    def pause(seconds: float) -> None:
        turned_away.set()
        time.sleep(seconds)

    monkeypatch.setattr(cluster_connection, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    monkeypatch.setattr(cluster_connection, "MOVING_SECONDS", PATIENCE)
    store.put({"a": numbered(3)})
    assert store.swap(None, b"1")
    source = cluster.owner(store._head)
    target = next(n for n in range(4) if n not in (source, cluster.pair()[1]))
    moving = cluster.move_slot(key_slot(store._head), source, target)
    next(moving), next(moving)  # a key of two has moved
    with ThreadPoolExecutor(2) as threads:
        swap = threads.submit(store.swap, b"1", b"2", {"never there": [(b"k", b"v")]}, {"a": [b"000001"]})
        put = threads.submit(store.put, {"a": [(b"k", b"v")]})
        assert turned_away.wait(PATIENCE) and not swap.done()
        assert [*moving]
        assert swap.result() and put.result() is None
    assert store.head() == b"2" and store.count("never there") == 1 and store.count("a") == 3
    assert [*cluster.move_slot(key_slot(store._head), target, source)]


# Servers fail


def test_a_cluster_that_is_down_in_part(cluster: Cluster, store: RedisClusterStore) -> None:
    store.put({"items/v": numbered(100)})
    some = store._hash("items/v", 3)
    owner, slot = cluster.owner(some), key_slot(some)
    cluster.call(owner, "CLUSTER", "DELSLOTS", slot)
    try:
        cluster.wait(lambda: b"cluster_state:fail" in cluster.call(owner, "CLUSTER", "INFO"))
        for call in (
            lambda: store.count("items/v"),
            lambda: [*store.scan("items/v")],
            lambda: store.put({"items/v": numbered(5000)}),
        ):
            with pytest.raises(
                StoreError, match=r"the cluster is down in part: .*; bring back the primaries"
            ):
                call()
    finally:
        cluster.call(owner, "CLUSTER", "ADDSLOTS", slot)
        cluster.settle()
    assert store.count("items/v") >= 100


def test_replicas_that_must_have_what_is_written(cluster: Cluster) -> None:
    primary, replica = cluster.pair()
    url = address(cluster, cluster.prefix_on(primary), "&replicas=1")
    with closing(open_store(f"{url}&socket_timeout=60")) as store, closing(open_hasty(url)) as hasty:
        store.put({"a": [(b"k", b"v")]})
        assert store.swap(None, b"1")
        cluster.pause(replica, True)
        try:
            lacking = "has written it, and 0 of 1 replicas have it too: it may be lost when that server fails"
            with pytest.raises(StoreError, match=lacking):
                hasty.put({"a": [(b"k", b"w")]})
            with pytest.raises(StoreError, match=lacking):
                hasty.swap(b"1", b"2")
        finally:
            cluster.pause(replica, False)
        assert store.head() == b"2" and store.swap(b"2", b"3")
        with pytest.raises(StoreError, match="has written it, and 0 of 1 replicas have it too"):
            hasty.put({"items/v": numbered(2000)})  # two servers have no replica
    assert not open_sockets(cluster)


def test_a_write_whose_answer_is_lost_may_have_been_made(cluster: Cluster) -> None:
    url = address(cluster, cluster.prefix_on(1))
    with closing(open_store(url)) as store, closing(open_hasty(url)) as hasty:
        lost = "connection was lost: .*; what was sent may or may not have been written"
        for table in ("items/v", "a"):
            cluster.call(1, "CLIENT", "PAUSE", round(1e3 * PATIENCE), "WRITE")
            with pytest.raises(StoreError, match=lost):
                hasty.put({table: numbered(2000)})
            cluster.call(1, "CLIENT", "UNPAUSE")
        assert store.swap(None, b"2")


def kind_of(entries: Mapping[str, Pairs]) -> str:
    """What a write of a publication writes: parts, items, changed items with the head, or nothing but a claim."""
    return next(iter(entries), "claim/").partition("/")[0]


@pytest.fixture
def writes(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many writes of each kind an undisturbed publication takes, in small batches, as after this fixture too."""
    monkeypatch.setattr("corank_serve.store.publish.BLOCK", 3)
    monkeypatch.setattr("corank_serve.store.version_parts.CHUNK", 1 << 13)
    counted = Counter[str]()
    with closing(open_store(f"lmdb:{tmp_path / 'undisturbed'}", create=True)) as store:
        publish_bundle(bundles[0], store)
        upsert(store, derived().funnel, [item(3, 90)])
        publish_bundle(
            bundles[1],
            Between(store, lambda _, entries: counted.update([kind_of(entries)])),
        )
    assert min(counted["parts"], counted["items"]) > 3 and counted["changed"] == 1, counted
    return counted


CASES = [
    ("parts", 0.5, False, True),
    ("parts", 1.0, True, False),
    ("items", 0.5, True, True),
    ("changed", 1.0, True, True),
]


@pytest.mark.parametrize(("kind", "share", "lags", "head_is_there"), CASES)
def test_a_primary_dies_in_the_middle_of_publishing(
    cluster: Cluster,
    tmp_path: Path,
    writes: Counter[str],
    bundles: list[Path],
    kind: str,
    share: float,
    lags: bool,
    head_is_there: bool,
) -> None:
    """Its replica takes its place, without what was written in the meantime if it lags.

    It dies before the first write of a kind (a share of 0), before the last (1) or between.
    """
    url = address(cluster, cluster.prefix_on(cluster.pair()[0] if head_is_there else 1))
    seen, fails_at = Counter[str](), 1 + round(share * (writes[kind] - 1))

    def happens(_: int, entries: Mapping[str, Pairs]) -> None:
        seen[kind_of(entries)] += 1
        if kind_of(entries) == kind and seen[kind] == fails_at:
            cluster.fail_over()

    with closing(open_store(url)) as store:
        before = publish_bundle(bundles[0], store)
        upsert(store, derived().funnel, [item(3, 90)])
        expected = records(served(store, tmp_path / "before"))
        cluster.cut_off() if lags else cluster.catch_up()
        with pytest.raises(StoreError):
            publish_bundle(bundles[1], Between(store, happens))
        with closing(open_store(url)) as other:
            assert StoreState.read(other)[1].live == before
            assert records(served(other, tmp_path / "before")) == expected
        after = publish_bundle(bundles[1], store)
        assert {*worths(served(store, tmp_path / "after"))} == {*range(16), 90}
        cluster.recover()
        assert records(served(store, tmp_path / "again")) == records(served(store, tmp_path / "after"))
        assert StoreState.read(store)[1].live == after
        assert remove_versions(store, keep=0) == [before]


def test_what_a_failover_lost_after_it_was_verified_is_noticed_and_mended(
    cluster: Cluster, tmp_path: Path, bundles: list[Path]
) -> None:
    """A server whose replica is not connected fails between the last check and the swap of the head, elsewhere."""
    url = address(cluster, cluster.prefix_on(1))
    source = StoreSource(url, tmp_path / "cache")
    with closing(open_store(url)) as store:
        publish_bundle(bundles[0], store)
        funnel = source.load_newer(None)
        cluster.cut_off()

        def happens(_: int, entries: Mapping[str, Pairs]) -> None:
            if any("changed/" in table for table in entries):
                cluster.fail_over()

        live = publish_bundle(bundles[1], Between(store, happens))
        assert StoreState.read(store)[1].live == live
        with pytest.raises(StoreError, match="the server cannot be reached"):
            source.load_newer(funnel)
        with pytest.raises(StoreError, match=r"is not whole; publish it again|are missing; publish it again"):
            source.load_newer(funnel)
        cluster.recover()
        said: list[str] = []
        assert publish_bundle(bundles[1], store, said.append) == live
        assert any("not whole; what is live is untouched" in line for line in said)
        newer = source.load_newer(funnel)
        assert newer is not None and newer.manifest.content == live
    source.close()
