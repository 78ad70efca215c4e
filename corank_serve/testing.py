"""The contract of a store, as tests that any store can be put through; needs pytest and hypothesis.

One class tests a store:

    class TestFolderStore(StoreConformance):
        def new_url(self, folder: Path) -> str:
            return f"folder:{folder}"

Other processes load the plug-ins that CORANK_PLUGINS names.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.registry import load_environment_plugins
from corank_serve.store.base import Store, open_store

SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow]


def content(store: Store, table: str) -> dict[bytes, bytes]:
    """All pairs of a table."""
    return {key: value for batch in store.scan(table) for key, value in batch}


def numbered(n: int, value: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Pairs of n keys, all of one value."""
    return [(b"%06d" % number, value) for number in range(n)]


tables = st.text("ab/-*?[]\\é新", min_size=1, max_size=5)
pairs = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20) | st.binary(min_size=511, max_size=511), st.binary())
)


def add(url: str, table: str, value: bytes) -> list[str]:
    """The tables as seen by another process, after its put."""
    with closing(open_store(url)) as store:
        store.put({table: [(value, value)]})
        return store.tables()


def count(url: str, table: str) -> int:
    """The pairs of a table, as another process counts them."""
    with closing(open_store(url)) as store:
        return store.count(table)


def remove(url: str, table: str) -> None:
    """Drop a table in another process."""
    with closing(open_store(url)) as store:
        store.drop(table)


steps = st.tuples(
    st.sampled_from(
        ["put", "put", "empty", "swap", "late", "drop", "reopen", "add elsewhere", "drop elsewhere"]
    ),
    st.sampled_from("abc"),
    st.sampled_from([b"1", b"2", b"3"]),
)


def count_up(url: str, who: bytes, times: int) -> None:
    """Each step takes the next number, and notes who took it."""
    with closing(open_store(url)) as store:
        for _ in range(times):
            while True:
                before = store.head()
                after = b"%d" % (int(before or 0) + 1)
                if store.swap(before, after, {"taken": [(after, who)]}, {"open": [after]}):
                    break


def put_generations(url: str) -> int:
    """Until a table of the name `enough` is there; returns the last."""
    with closing(open_store(url)) as store:
        generation = 0
        while not store.count("enough"):
            generation += 1
            store.put({table: numbered(2000, b"%d" % generation) for table in ("a", "b")})
        return generation


WRITER = """
import sys
from corank.core.registry import load_environment_plugins
from corank_serve.store.base import open_store
load_environment_plugins()
store = open_store(sys.argv[1])
for n in range(1_000_000):
    store.put({table: [(b"%d-%d" % (n, k), b"x" * 50) for k in range(500)] for table in ("a", "b")})
    print(n, flush=True)
"""


class StoreConformance:
    """Tests of one kind of store."""

    def new_url(self, folder: Path) -> str:
        """The URL of a new, empty store, which may lie in an empty folder."""
        raise NotImplementedError

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return self.new_url(tmp_path)

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with closing(open_store(url, create=True)) as opened:
            yield opened

    @pytest.fixture(scope="class")
    @classmethod
    def others(cls) -> Iterator[ProcessPoolExecutor]:
        """Three other processes."""
        with ProcessPoolExecutor(3, get_context("spawn"), load_environment_plugins) as pool:
            yield pool

    def test_a_new_store_is_empty(self, store: Store) -> None:
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

    @settings(max_examples=10, deadline=None, suppress_health_check=SUPPRESSED)
    @given(st.dictionaries(tables, pairs, max_size=3), st.binary())
    def test_what_is_put_comes_back(
        self, store: Store, entries: dict[str, list[tuple[bytes, bytes]]], head: bytes
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

    def test_a_put_adds_to_a_table_and_replaces_values(self, store: Store) -> None:
        store.put({"items": [(b"a", b"1"), (b"b", b"1")]})
        store.put({"items": [(b"b", b"2"), (b"c", b"2"), (b"c", b"3")]})
        assert content(store, "items") == {b"a": b"1", b"b": b"2", b"c": b"3"}
        assert store.get("items", [b"c", b"a", b"c"]) == [b"3", b"1", b"3"]

    def test_a_swap_takes_what_it_expects(self, store: Store) -> None:
        entries = {"a": [(b"k", b"1")]}
        assert not store.swap(b"", b"new", entries)
        assert store.head() is None and store.tables() == []
        assert store.swap(None, b"", entries)
        assert store.head() == b""
        assert not store.swap(None, b"new", {"a": [(b"k", b"2")], "b": [(b"k", b"2")]}, {"a": [b"k"]})
        assert store.head() == b"" and content(store, "a") == {b"k": b"1"} and store.tables() == ["a"]

    def test_a_swap_deletes_before_it_puts(self, store: Store) -> None:
        store.put({"a": [*numbered(2500), (b"kept", b"")], "b": [(b"k", b"")]})
        gone = {
            "a": [key for key, _ in numbered(2500)],
            "b": [b"k", b"k", b"never there"],
            "never there": [b"k"],
        }
        assert store.swap(None, b"1", {"a": [(b"000007", b"new")]}, gone)
        assert content(store, "a") == {b"kept": b"", b"000007": b"new"}
        assert store.tables() == ["a"]  # a table is there while it holds a key
        store.put({"b": [(b"k", b"again")]})
        assert content(store, "b") == {b"k": b"again"}

    def test_a_dropped_table_leaves_the_others(self, store: Store) -> None:
        store.put({"a": numbered(3000), "a/b": numbered(2), "ab": numbered(1)})
        store.drop("a")
        assert store.tables() == ["a/b", "ab"]
        assert store.count("a") == 0 and store.count("a/b") == 2
        store.put({"a": [(b"k", b"new")]})
        assert content(store, "a") == {b"k": b"new"}

    def test_a_scan_sees_everything_in_batches(self, store: Store) -> None:
        there = [(b"%x" % (number * 2654435761 % 2**32), b"%d" % number) for number in range(12_000)]
        store.put({"items": there})
        batches = list(store.scan("items"))
        assert {key: value for batch in batches for key, value in batch} == dict(there)
        assert max(map(len, batches)) <= 2000

    def test_a_scan_sees_what_is_there_throughout(self, store: Store, url: str) -> None:
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

    def test_stores_at_one_address_are_one(self, store: Store, url: str, others: ProcessPoolExecutor) -> None:
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
        self, store: Store, url: str, others: ProcessPoolExecutor
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

    @settings(max_examples=15, deadline=None, suppress_health_check=SUPPRESSED)
    @given(st.lists(steps, max_size=15))
    def test_tables_stay_apart_whatever_is_done(
        self, url: str, others: ProcessPoolExecutor, steps: list[tuple[str, str, bytes]]
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

    def test_no_swap_is_lost(self, store: Store, url: str, others: ProcessPoolExecutor) -> None:
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

    def test_no_put_is_seen_in_part(self, store: Store, url: str, others: ProcessPoolExecutor) -> None:
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

    def test_threads_share_a_store(self, store: Store) -> None:
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

    def test_a_killed_writer_leaves_whole_puts(self, store: Store, url: str) -> None:
        for writes in (1, 3, 5):
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
