"""What every store promises, asked of each alike; then the faults of each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from uuid import uuid4

import lmdb
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.errors import StoreError
from corank.serving.store.base import Entries, Store, open_store
from tests.support.redis_server import Server, redis_server
from tests.support.stores import KINDS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path / 'store'}"
    return f"{request.getfixturevalue('server').url}?prefix={uuid4().hex}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url, create=True)) as opened:
        yield opened


@pytest.fixture(scope="module")
def others() -> Iterator[ProcessPoolExecutor]:
    """Three other processes."""
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        yield pool


def content(store: Store, table: str) -> dict[bytes, bytes]:
    return {key: value for batch in store.scan(table) for key, value in batch}


def numbered(n: int, value: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [(b"%06d" % number, value) for number in range(n)]


# The contract


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.head() is None
    assert store.tables() == []
    assert store.count("items") == 0
    assert content(store, "items") == {}
    assert store.get("items", [b"a", b"b"]) == [None, None]
    assert store.get("items", []) == []
    store.drop("items")
    store.put({})
    store.put({"items": []})
    assert store.tables() == []


tables = st.text("ab/-*?[]\\é新", min_size=1, max_size=5)
pairs = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20) | st.binary(min_size=511, max_size=511), st.binary())
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(tables, pairs, max_size=3), st.binary())
def test_what_is_put_comes_back(
    store: Store, entries: dict[str, list[tuple[bytes, bytes]]], head: bytes
) -> None:
    for table in store.tables():
        store.drop(table)
    store.put(entries)
    assert store.swap(store.head(), head)
    assert store.head() == head
    assert store.tables() == sorted(table for table in entries if entries[table])
    for table, put in entries.items():
        last = dict(put)
        assert content(store, table) == last
        assert store.count(table) == len(last)
        assert store.get(table, [*last, b"not there"]) == [*last.values(), None]


def test_a_put_adds_to_a_table_and_replaces_values(store: Store) -> None:
    store.put({"items": [(b"a", b"1"), (b"b", b"1")]})
    store.put({"items": [(b"b", b"2"), (b"c", b"2"), (b"c", b"3")]})
    assert content(store, "items") == {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert store.get("items", [b"c", b"a", b"c"]) == [b"3", b"1", b"3"]


def test_a_swap_takes_what_it_expects(store: Store) -> None:
    entries = {"a": [(b"k", b"1")]}
    assert not store.swap(b"", b"new", entries)
    assert store.head() is None and store.tables() == []
    assert store.swap(None, b"", entries)
    assert store.head() == b""
    assert not store.swap(None, b"new", {"a": [(b"k", b"2")], "b": [(b"k", b"2")]}, {"a": [b"k"]})
    assert store.head() == b"" and content(store, "a") == {b"k": b"1"} and store.tables() == ["a"]


def test_a_swap_deletes_before_it_puts(store: Store) -> None:
    store.put({"a": [*numbered(2500), (b"kept", b"")], "b": [(b"k", b"")]})
    gone = {"a": [key for key, _ in numbered(2500)], "b": [b"k", b"k", b"never there"], "never there": [b"k"]}
    assert store.swap(None, b"1", {"a": [(b"000007", b"new")]}, gone)
    assert content(store, "a") == {b"kept": b"", b"000007": b"new"}
    assert store.tables() == ["a"]  # a table is there while it holds a key
    store.put({"b": [(b"k", b"again")]})
    assert content(store, "b") == {b"k": b"again"}


def test_a_dropped_table_leaves_the_others(store: Store) -> None:
    store.put({"a": numbered(3000), "a/b": numbered(2), "ab": numbered(1)})
    store.drop("a")
    assert store.tables() == ["a/b", "ab"]
    assert store.count("a") == 0 and store.count("a/b") == 2
    store.put({"a": [(b"k", b"new")]})
    assert content(store, "a") == {b"k": b"new"}


def test_a_scan_sees_everything_in_batches(store: Store) -> None:
    there = [(b"%x" % (number * 2654435761 % 2**32), b"%d" % number) for number in range(50_000)]
    store.put({"items": there})
    batches = list(store.scan("items"))
    assert {key: value for batch in batches for key, value in batch} == dict(there)
    assert max(map(len, batches)) <= 2000


def test_a_scan_sees_what_is_there_throughout(store: Store, url: str) -> None:
    store.put({"items": [(b"gone%05d" % n, b"") for n in range(5000)]})
    kept = [(b"kept%05d" % n, b"%d" % n) for n in range(5000)]
    store.put({"items": kept})
    seen: dict[bytes, bytes] = {}
    with closing(open_store(url)) as other:
        for n, batch in enumerate(store.scan("items")):
            seen |= dict(batch)
            other.put({"items": [(b"new%05d" % n, b"")]})
            assert other.swap(other.head(), b"", gone={"items": [b"gone%05d" % k for k in range(5000)]})
    assert seen.items() >= dict(kept).items()
    scan = store.scan("items")
    next(scan)
    store.drop("items")
    assert sum(map(len, scan)) <= 2000


def add(url: str, table: str, value: bytes) -> list[str]:
    """The tables as seen by another process, after its put."""
    with closing(open_store(url)) as store:
        store.put({table: [(value, value)]})
        return store.tables()


def count(url: str, table: str) -> int:
    with closing(open_store(url)) as store:
        return store.count(table)


def remove(url: str, table: str) -> None:
    with closing(open_store(url)) as store:
        store.drop(table)


def test_stores_at_one_address_are_one(store: Store, url: str, others: ProcessPoolExecutor) -> None:
    with closing(open_store(url)) as second:
        second.put({"a": [(b"1", b"1")]})
        assert content(store, "a") == {b"1": b"1"}
        store.drop("a")
        assert second.tables() == []
        second.close()
    store.put({"a": [(b"2", b"2")]})  # closing one leaves the other open
    assert others.submit(add, url, "a", b"3").result() == ["a"]
    assert content(store, "a") == {b"2": b"2", b"3": b"3"}


def test_a_table_that_another_process_drops_and_makes_again(
    store: Store, url: str, others: ProcessPoolExecutor
) -> None:
    store.put({"a": [(b"1", b"")], "b": [(b"1", b"")]})
    others.submit(remove, url, "a").result()
    assert store.count("a") == 0
    store.put({"a": [(b"2", b"")]})
    others.submit(remove, url, "a").result()
    store.drop("a")
    others.submit(add, url, "c", b"3").result()
    others.submit(add, url, "a", b"4").result()
    assert content(store, "a") == {b"4": b"4"}
    store.put({"a": [(b"5", b"")]})
    assert content(store, "a") == {b"4": b"4", b"5": b""}
    assert content(store, "b") == {b"1": b""} and content(store, "c") == {b"3": b"3"}


steps = st.tuples(
    st.sampled_from(
        ["put", "put", "empty", "swap", "late", "drop", "reopen", "add elsewhere", "drop elsewhere"]
    ),
    st.sampled_from("abc"),
    st.sampled_from([b"1", b"2", b"3"]),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=15))
def test_tables_stay_apart_whatever_is_done(
    url: str, others: ProcessPoolExecutor, steps: list[tuple[str, str, bytes]]
) -> None:
    store = open_store(url, create=True)
    for table in store.tables():
        store.drop(table)
    model: dict[str, dict[bytes, bytes]] = {}
    for step, table, key in steps:
        entries = {table: [(key, table.encode())]}
        match step:
            case "put":
                store.put(entries)
            case "empty":
                store.put({table: []})
            case "swap":
                assert store.swap(store.head(), key, {table: [(key, table.encode())]})
            case "late":
                assert not store.swap(b"another", key, entries, {table: [b"1", b"2"]})
            case "drop":
                store.drop(table)
            case "reopen":
                store.close()
                store = open_store(url)
            case "add elsewhere":
                others.submit(add, url, table, key).result()
            case "drop elsewhere":
                others.submit(remove, url, table).result()
        if step in {"put", "swap"}:
            model.setdefault(table, {})[key] = table.encode()
        elif step == "add elsewhere":
            model.setdefault(table, {})[key] = key
        elif step.startswith("drop"):
            model.pop(table, None)
        assert {name: content(store, name) for name in store.tables()} == model
    store.close()


def count_up(url: str, who: bytes, times: int) -> None:
    """Each step takes the next number, and notes who took it."""
    with closing(open_store(url)) as store:
        for _ in range(times):
            while True:
                before = store.head()
                after = b"%d" % (int(before or 0) + 1)
                if store.swap(before, after, {"taken": [(after, who)]}, {"open": [after]}):
                    break


def test_no_swap_is_lost(store: Store, url: str, others: ProcessPoolExecutor) -> None:
    store.put({"open": [(b"%d" % n, b"") for n in range(1, 202)]})
    with ThreadPoolExecutor(2) as threads:
        running: list[Future[None]] = [others.submit(count_up, url, b"%d" % n, 40) for n in range(3)]
        running += [threads.submit(count_up, url, b"%d" % n, 40) for n in (3, 4)]
        for one in running:
            one.result()
    assert store.head() == b"200"
    taken = content(store, "taken")
    assert sorted(map(int, taken)) == list(range(1, 201))
    assert sorted(taken.values()) == sorted([b"0", b"1", b"2", b"3", b"4"] * 40)
    assert content(store, "open") == {b"201": b""}


def put_generations(url: str) -> int:
    """Until a table of the name `enough` is there; returns the last."""
    with closing(open_store(url)) as store:
        generation = 0
        while not store.count("enough"):
            generation += 1
            store.put({table: numbered(2000, b"%d" % generation) for table in ("a", "b")})
        return generation


def test_no_put_is_seen_in_part(store: Store, url: str, others: ProcessPoolExecutor) -> None:
    keys = [key for key, _ in numbered(2000)]
    writing = others.submit(put_generations, url)
    seen: set[bytes | None] = set()
    while len(seen) < 10 and not writing.done():
        values = {*store.get("a", keys)}
        assert len(values) == 1
        seen |= values
        assert store.count("b") in {0, 2000}
    store.put({"enough": [(b"k", b"")]})
    last = b"%d" % writing.result()
    assert {*store.get("a", keys)} == {*store.get("b", keys)} == {last}
    assert len(seen) == 10


def test_threads_share_a_store(store: Store) -> None:
    def work(who: int) -> None:
        for n in range(30):
            table = f"{who}/{n}"
            store.put({table: numbered(50, b"%d" % who), "all": [(table.encode(), b"")]})
            assert {*content(store, table).values()} == {b"%d" % who}
            assert store.count(table) == 50
            if n % 2:
                store.drop(table)
            assert table in store.tables() or n % 2

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert store.count("all") == 120
    assert store.tables() == sorted(["all", *(f"{who}/{n}" for who in range(4) for n in range(0, 30, 2))])


WRITER = """
import sys
from corank.serving.store.base import open_store
store = open_store(sys.argv[1])
for n in range(1_000_000):
    store.put({table: [(b"%d-%d" % (n, k), b"x" * 50) for k in range(500)] for table in ("a", "b")})
    print(n, flush=True)
"""


def test_a_killed_writer_leaves_whole_puts(store: Store, url: str) -> None:
    for writes in range(1, 6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE)
        assert writer.stdout
        for _ in range(writes):
            assert writer.stdout.readline()
        writer.kill()
        writer.communicate()
        there = content(store, "a")
        assert len(there) >= 500 * writes and len(there) % 500 == 0
        assert content(store, "b") == there
    store.put({"a": [(b"on it goes", b"")]})


def test_other_addresses_are_refused() -> None:
    for url in ("", "store", "/some/folder", "mysql://host", "redis:host", "LMDB:x"):
        with pytest.raises(StoreError, match=r"expected lmdb:PATH or redis://HOST:PORT; received '"):
            open_store(url)
    for url in ("mysql://user:secret@host", "redis:secret@host", "http://:se@cret@host?password=secret&x=1"):
        with pytest.raises(StoreError) as raised:
            open_store(url)
        assert "secret" not in str(raised.value) and "host" in str(raised.value)


# LMDB


def test_lmdb_makes_a_folder_only_where_it_is_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "above" / "store"
    with pytest.raises(StoreError, match=rf"there is no store at {path}; `corank publish` makes one"):
        open_store(f"lmdb:{path}")
    assert not path.parent.exists()
    for create in (True, False):
        with closing(open_store(f"lmdb:{path}", create)) as store:
            assert store.address == f"lmdb:{path}"
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]


@pytest.mark.parametrize(
    "rest", ["", "?gib=4", "x?gib=", "x?gib=much", "x?gib=-1", "x?gib=0", "x?gib=0.0", "x?gib=1e3", "x?map=1"]
)
def test_lmdb_wants_a_path_and_a_size(rest: str) -> None:
    with pytest.raises(StoreError, match=r"expected lmdb:PATH or lmdb:PATH\?gib=NUMBER; received 'lmdb:"):
        open_store(f"lmdb:{rest}", create=True)


def test_lmdb_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="file: is a file; a store is a folder"):
        open_store(f"lmdb:{tmp_path / 'file'}", create=True)
    with pytest.raises(StoreError, match=r"file/store: cannot be opened: .*Not a directory"):
        open_store(f"lmdb:{tmp_path / 'file' / 'store'}", create=True)
    with pytest.raises(StoreError, match="holds file, which is not a store's; name an empty folder"):
        open_store(f"lmdb:{tmp_path}", create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_text("mine" * 5000)
    with pytest.raises(StoreError, match=r"text: cannot be opened: .*not an LMDB file"):
        open_store(f"lmdb:{tmp_path / 'text'}", create=True)

    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as txn:
        txn.put(b"k", b"v")
    for _ in range(2):
        with pytest.raises(StoreError, match="an LMDB environment without a store; name another folder"):
            open_store(f"lmdb:{tmp_path / 'foreign'}", create=True)
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin() as read:
        assert list(read.cursor()) == [(b"k", b"v")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_lmdb_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o500)
    for path in (folder, folder / "in"):
        with pytest.raises(StoreError, match=r"cannot be opened: .*Permission denied"):
            open_store(f"lmdb:{path}", create=True)


def test_a_full_map_keeps_what_is_there(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(f"{url}?gib=0.001", create=True)) as store:
        store.put({"a": numbered(1000, b"x")})
        assert store.swap(None, b"1")
        full = (
            r"nothing was written: the map of 0\.001 GiB is full; open .* larger one, lmdb:PATH\?gib=NUMBER"
        )
        with pytest.raises(StoreError, match=full):
            store.put({"a": [(b"new", b"")], "b": numbered(10, b"x" * 1_000_000)})
        with pytest.raises(StoreError, match=full):
            store.swap(b"1", b"2", {"a": numbered(10, b"x" * 1_000_000)}, {"a": [b"000001"]})
        assert store.head() == b"1" and store.tables() == ["a"]
        assert content(store, "a") == dict(numbered(1000, b"x"))
        store.put({"c": [(b"small", b"")]})
        with closing(open_store(f"{url}?gib=1")) as larger:  # counts for the first one too: they are one
            store.put({"b": numbered(10, b"x" * 1_000_000)})
            assert larger.count("b") == 10


def grow(url: str) -> None:
    with closing(open_store(url)) as store:
        store.put({"large": numbered(10, b"x" * 1_000_000)})


def test_a_map_that_another_process_outgrew(tmp_path: Path, others: ProcessPoolExecutor) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(f"{url}?gib=0.001", create=True)) as store:
        store.put({"a": numbered(10)})
        scan = store.scan("a")
        next(scan)
        others.submit(grow, f"{url}?gib=1").result()
        assert next(scan, None) is None
        assert store.count("large") == 10 and store.count("a") == 10
        with pytest.raises(StoreError, match="is full"):
            store.put({"a": numbered(10, b"x" * 1_000_000)})


def test_a_map_beyond_the_address_space_is_refused(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from corank.serving.store.base import open_store\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))\n"
        "open_store(sys.argv[1] + '?gib=1', True).close()\n"
        "try:\n    open_store(sys.argv[1])\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = run(code, f"lmdb:{tmp_path / 'store'}")
    assert done.startswith("StoreError lmdb:") and "the address space is too small; give less" in done


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_full_disk_keeps_what_is_there(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from corank.serving.store.base import open_store\n"
        "store = open_store(sys.argv[1], True)\n"
        "store.put({'a': [(b'k', b'v')]})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"  # stands for the disk's last byte
        "try:\n    store.put({'a': [(b'k', b'new')], 'b': [(b'k', b'x' * 5_000_000)]})\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
        "print(store.get('a', [b'k']), store.tables())\n"
        "store.put({'a': [(b'k', b'small')]})\n"
    )
    url = f"lmdb:{tmp_path / 'store'}"
    told, there = run(code, url).splitlines()
    assert told.startswith(f"StoreError {url}: nothing was written: ") and told.endswith(
        "; is its disk full?"
    )
    assert there == "[b'v'] ['a']"
    with closing(open_store(url)) as store:
        assert content(store, "a") == {b"k": b"small"}


def test_keys_that_lmdb_does_not_take(tmp_path: Path) -> None:
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as store:
        store.put({"a": [(b"k" * 511, b"")]})
        wrong: list[Entries] = [
            {"a": [(b"new", b""), (b"k" * 512, b"")]},
            {"a": [(b"new", b"")], "b": [(b"", b"")]},
            {"a": [(b"new", b"")], "b" * 510: [(b"k", b"")]},
        ]
        for entries in wrong:
            with pytest.raises(
                StoreError, match=r"nothing was written: .* empty or longer than LMDB's limit of 511"
            ):
                store.put(entries)
            with pytest.raises(StoreError, match="longer than LMDB's limit of 511 bytes"):
                store.swap(None, b"1", entries)
        assert store.get("a", [b"k" * 512]) == [None]
        assert content(store, "a") == {b"k" * 511: b""} and store.tables() == ["a"] and store.head() is None


def test_lmdb_scans_a_key_once(tmp_path: Path) -> None:
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as store:
        for n in (999, 1000, 1001, 2000, 2500):
            store.put({f"{n}": numbered(n)})
            assert [pair for batch in store.scan(f"{n}") for pair in batch] == numbered(n)


def test_more_tables_than_handles(tmp_path: Path) -> None:
    names = [f"{n:04}" for n in range(2500)]
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as store:
        for at in range(0, 2500, 500):
            store.put({name: [(b"k", name.encode())] for name in names[at : at + 500]})
        assert store.tables() == names
        assert all(store.get(name, [b"k"]) == [name.encode()] for name in names)
        with pytest.raises(StoreError, match=r"nothing was written: .*MDB_DBS_FULL"):
            store.put({f"x{name}": [(b"k", b"")] for name in names})
        assert store.tables() == names


@contextmanager
def occupied(path: Path) -> Iterator[None]:
    """While another process is in the midst of a write."""
    code = (
        "import lmdb, sys\n"
        "with lmdb.open(sys.argv[1], map_size=2**30, max_dbs=9).begin(write=True):\n"
        "    print('in', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout and writer.stdout.readline()
        yield
        writer.communicate()


def test_reads_do_not_wait_for_writes(tmp_path: Path, others: ProcessPoolExecutor) -> None:
    path = tmp_path / "store"
    with closing(open_store(f"lmdb:{path}", create=True)) as store, ThreadPoolExecutor(2) as threads:
        store.put({"a": [(b"k", b"1")]})
        started = Event()

        def write() -> None:
            started.set()
            store.put({"a": [(b"k", b"2")]})

        def read() -> None:
            assert started.wait()
            for _ in range(1000):
                assert store.get("a", [b"k"]) == [b"1"]
            assert store.tables() == ["a"] and content(store, "a") == {b"k": b"1"}

        with occupied(path):
            writing = threads.submit(write)
            threads.submit(read).result(30)
            assert others.submit(count, f"lmdb:{path}", "a").result(30) == 1
            assert not writing.done()
        writing.result()
        assert store.get("a", [b"k"]) == [b"2"]


def test_a_reader_that_was_killed_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(f"lmdb:{path}", create=True).close()
    code = (
        "import lmdb, os, signal, sys\n"
        "txn = lmdb.open(sys.argv[1], map_size=2**30).begin()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with occupied(path):  # the last to leave would clear all
        for opens in (False, True):
            done = subprocess.run([sys.executable, "-c", code, str(path)])
            assert done.returncode == -signal.SIGKILL
            if opens:
                open_store(f"lmdb:{path}").close()
            with lmdb.open(str(path), map_size=2**30) as environment:
                assert environment.reader_check() == (0 if opens else 1)


def test_a_store_that_is_closed_or_forked_says_so(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    store = open_store(url, create=True)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="store: closed, or this process was forked since; open it anew"):
        store.head()
    code = (
        "import os, sys; from corank.serving.store.base import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "if child := os.fork():\n    os.waitpid(child, 0); print(store.head())\n"
        "else:\n    try:\n        store.head()\n    except Exception as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
    )
    told, head = run(code, url).splitlines()
    assert "this process was forked since" in told and head == "None"


def test_a_folder_that_is_made_anew_is_another_store(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as old:
        old.put({"a": [(b"k", b"")]})
        (tmp_path / "store").rename(tmp_path / "moved")
        with (
            closing(open_store(url, create=True)) as new,
            closing(open_store(f"lmdb:{tmp_path / 'moved'}")) as moved,
        ):
            assert new.tables() == []
            assert moved.tables() == ["a"]


# Redis


@pytest.mark.store
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


@pytest.mark.store
def test_a_write_whose_answer_is_lost_may_have_been_made(server: Server) -> None:
    url = f"{server.url}?prefix={uuid4().hex}&socket_timeout=0.3"
    with closing(open_store(url)) as store, redis.Redis.from_url(server.url) as operator:
        lost = "connection was lost: .*; what was sent may or may not have been written"
        for write in (lambda: store.put({"a": [(b"k", b"")]}), lambda: store.swap(None, b"1")):
            operator.client_pause(60_000, all=False)
            with pytest.raises(StoreError, match=lost):
                write()
            assert store.head() is None
            operator.client_unpause()
        assert store.swap(store.head(), b"2")


@pytest.mark.store
def test_a_password_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "sec:ret/@%") as server:
        place = server.url.removeprefix("redis://")
        with closing(open_store(f"redis://:sec%3Aret%2F%40%25@{place}/3?prefix=p")) as store:
            assert store.address == f"redis://{place}/3?prefix=p"
            assert store.swap(None, b"1")
        with closing(open_store(f"redis://{place}/3?password=sec%3Aret%2F%40%25&prefix=p")) as store:
            assert store.address == f"redis://{place}/3?password=…&prefix=p"
            assert store.head() == b"1"
        for wrong in ("", "secret@", ":secret@", "user:secret@"):
            with pytest.raises(StoreError, match=r"the server refuses: .*; check user, password") as raised:
                open_store(f"redis://{wrong}{place}")
            assert "secret" not in str(raised.value) and place in str(raised.value)
        for malformed in (":se/cret", ":cret#", "a:cret?", ":cret]", "cret/", "a:12/cret"):
            with pytest.raises(
                StoreError, match=r"with @ : / \? # % in a password percent-encoded"
            ) as raised:
                open_store(f"redis://{malformed}@{place}")
            assert "cret" not in str(raised.value) and place in str(raised.value)


@pytest.mark.store
def test_options_that_redis_does_not_take(server: Server) -> None:
    for rest in ("?socket_timeout=long", "?colour=blue", ":port"):
        with pytest.raises(
            StoreError, match=r"expected redis://USER:PASSWORD@HOST:PORT/DB, .*options of redis-py"
        ):
            open_store(f"redis://localhost{rest}" if rest == ":port" else f"{server.url}{rest}")


@pytest.mark.store
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


@pytest.mark.store
def test_a_replica_is_read_only(tmp_path: Path) -> None:
    replica = redis_server(tmp_path, "--replicaof", "127.0.0.1 1")
    with replica as server, closing(open_store(server.url)) as store:
        assert store.head() is None
        with pytest.raises(
            StoreError, match="the server is a replica, nothing was written; give the address of"
        ):
            store.put({"a": [(b"k", b"")]})


@pytest.mark.store
def test_prefixes_part_the_stores_of_a_server(server: Server) -> None:
    base = uuid4().hex
    urls = [f"{server.url}?prefix={base}{mark}" for mark in ("", "%2A", "x", "%5Bx%5D", "%3F", "%5C", ":t")]
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


@pytest.mark.store
def test_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    with redis_server(folder, "--unixsocket", str(folder / "s")):
        with closing(open_store(f"unix://{folder / 's'}?prefix=p")) as store:
            store.put({"a": [(b"k", b"v")]})
            assert content(store, "a") == {b"k": b"v"}
        with pytest.raises(StoreError, match=r"nobody: the server cannot be reached"):
            open_store(f"unix://{folder / 'nobody'}")
