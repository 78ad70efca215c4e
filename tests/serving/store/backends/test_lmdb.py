"""The LMDB store's own faults: folders, sizes, handles, processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event

import lmdb
import pytest

from corank.core.errors import StoreError
from corank_serve.store.base import open_store
from corank_serve.testing import content, count, numbered
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def others() -> Iterator[ProcessPoolExecutor]:
    """Another process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


def test_lmdb_makes_a_folder_only_where_it_is_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "above" / "store"
    with pytest.raises(StoreError, match=rf"there is no store at {path}; `corank publish` makes one"):
        open_store(f"lmdb:{path}")
    assert not path.parent.exists()
    for create in (True, False):
        with closing(open_store(f"lmdb:{path}", create)) as store:
            assert store.address == f"lmdb:{path}"
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]


@pytest.mark.parametrize("rest", ["", "x?gib=much", "x?gib=-1", "x?gib=0.0", "x?map=1"])
def test_lmdb_wants_a_path_and_a_size(rest: str) -> None:
    with pytest.raises(StoreError, match=r"expected lmdb:PATH or lmdb:PATH\?gib=NUMBER; received 'lmdb:"):
        open_store(f"lmdb:{rest}", create=True)


def test_lmdb_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="file: is a file; a store is a folder"):
        open_store(f"lmdb:{tmp_path / 'file'}", create=True)
    with pytest.raises(StoreError, match="holds file, which is not a store's; name an empty folder"):
        open_store(f"lmdb:{tmp_path}", create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_text("mine" * 5000)
    with pytest.raises(StoreError, match=r"text: cannot be opened: .*not LMDB's"):
        open_store(f"lmdb:{tmp_path / 'text'}", create=True)

    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as txn:
        txn.put(b"k", b"v")
    for _ in range(2):
        with pytest.raises(StoreError, match="an LMDB environment without a store; name another folder"):
            open_store(f"lmdb:{tmp_path / 'foreign'}", create=True)
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin() as read:
        assert list(read.cursor()) == [(b"k", b"v")]


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
        "import resource, sys; from corank_serve.store.base import open_store\n"
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
        "import resource, sys; from corank_serve.store.base import open_store\n"
        "store = open_store(sys.argv[1], True)\n"
        "store.put({'a': [(b'k', b'v')]})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"  # stands for the disk's last byte
        "try:\n    store.put({'a': [(b'k', b'new')], 'b': [(b'k', b'x' * 5_000_000)]})\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
        "print(store.get('a', [b'k']), store.tables())\n"
        "store.put({'a': [(b'k', b'small')]})\n"
    )
    url = f"lmdb:{tmp_path / 'store'}"
    message, there = run(code, url).splitlines()
    assert message.startswith(f"StoreError {url}: nothing was written: ") and message.endswith(
        "; is its disk full?"
    )
    assert there == "[b'v'] ['a']"
    with closing(open_store(url)) as store:
        assert content(store, "a") == {b"k": b"small"}


def test_keys_that_lmdb_does_not_take(tmp_path: Path) -> None:
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as store:
        store.put({"a": [(b"k" * 511, b"")]})
        limit = pytest.raises(
            StoreError, match=r"nothing was written: .* empty or longer than LMDB's limit of 511 bytes"
        )
        with limit:
            store.put({"a": [(b"new", b""), (b"k" * 512, b"")]})
        with limit:
            store.put({"a": [(b"new", b"")], "b" * 510: [(b"k", b"")]})
        with limit:
            store.swap(None, b"1", {"a": [(b"new", b"")], "b": [(b"", b"")]})
        assert store.get("a", [b"k" * 512]) == [None]
        assert content(store, "a") == {b"k" * 511: b""} and store.tables() == ["a"] and store.head() is None


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
            threads.submit(read).result(PATIENCE)
            assert others.submit(count, f"lmdb:{path}", "a").result(PATIENCE) == 1
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
        "import os, sys; from corank_serve.store.base import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "if child := os.fork():\n    os.waitpid(child, 0); print(store.head())\n"
        "else:\n    try:\n        store.head()\n    except Exception as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
    )
    message, head = run(code, url).splitlines()
    assert "this process was forked since" in message and head == "None"
