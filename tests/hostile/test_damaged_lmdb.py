import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import psutil
import pytest

from corank.core.errors import StoreError
from corank.serving.store import isolated_store
from corank.serving.store.base import Store, open_store
from corank.serving.store.isolated_store import IsolatedStore, open_isolated
from corank.serving.store.publish import publish_bundle
from tests.support.service import running_service
from tests.support.shared import derived
from tests.support.store_conformance import StoreConformance, numbered
from tests.support.waiting import PATIENCE

DIED = "the process that reads it died of SIG(BUS|SEGV): the store is damaged"


class TestIsolatedStore(StoreConformance):
    def new_url(self, folder: Path) -> str:
        return f"lmdb:{folder / 'store'}"

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        open_store(url, create=True).close()
        with closing(IsolatedStore(url)) as opened:
            yield opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a table of users."""
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as store:
        for _ in range(5):
            store.put({"users": numbered(5000, os.urandom(100))})
        store.swap(None, b"head")
    return url


def cut(url: str) -> None:
    """Cut the file of a store, whose meta pages stay sound."""
    file = Path(url.removeprefix("lmdb:")) / "data.mdb"
    os.truncate(file, file.stat().st_size // 4)


def reader_of(store: IsolatedStore) -> psutil.Process:
    reader = store._reader
    assert reader is not None
    return psutil.Process(reader.process.pid)


def test_a_file_that_is_cut_kills_the_reader_and_not_the_service(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_store, "FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(isolated_store, "LONGEST_PAUSE", 3600.0)
    with closing(open_isolated(url)) as store:
        assert store.head() == b"head"
        cut(url)
        with pytest.raises(StoreError, match=rf"{url}: {DIED}"):
            list(store.scan("users"))
        with pytest.raises(StoreError, match=rf"{DIED}.*; it is started again in \d+ s"):
            store.head()


def test_a_reader_that_dies_again_and_again_is_started_less_and_less_often(url: str) -> None:
    with closing(IsolatedStore(url)) as store:
        pauses = []
        for _ in range(4):
            store._retry_at = 0.0
            assert store.head() == b"head"
            reader_of(store).kill()
            with pytest.raises(StoreError, match="died of SIGKILL"):
                store.head()
            pauses.append(store._pause)
        assert pauses == [1, 2, 4, 8]


def test_a_reader_that_hangs_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(IsolatedStore(url)) as store:
        monkeypatch.setattr(isolated_store, "SECONDS", 0.5)
        hanging = reader_of(store)
        hanging.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match=r"gave no answer in 0\.5 s, and was ended"):
            store.head()
        assert not hanging.is_running()


def test_a_reader_outlives_the_signals_of_a_service_and_ends_with_its_socket(url: str) -> None:
    store = IsolatedStore(url)
    reader = reader_of(store)
    for sent in (signal.SIGTERM, signal.SIGINT):
        reader.send_signal(sent)
    assert store.head() == b"head"
    store._reader.link.close()  # type: ignore[union-attr]  # as when its parent is killed
    reader.wait(PATIENCE)
    store.close()


def test_a_scan_that_is_left_holds_nothing(url: str) -> None:
    with closing(IsolatedStore(url)) as store:
        scan = store.scan("users")
        next(scan)
        scan.close()  # type: ignore[attr-defined]
        assert store.head() == b"head" and sum(map(len, store.scan("users"))) == 5000
    reader = reader_of(store := IsolatedStore(url))
    del store
    assert not reader.is_running()


@pytest.mark.slow
def test_a_service_goes_on_when_its_store_is_cut(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as store:
        publish_bundle(derived().base / "bundle", store)
        store.put({"users": numbered(5000, os.urandom(100))})
    request = derived().request("test", 0)
    with running_service(url, tmp_path / "cache", "--every", "0.1") as (address, process):
        assert httpx2.post(f"{address}/rank", json=request).status_code == 200
        workers = [process, *process.children(recursive=True)]
        pids = {one.pid for one in workers if "isolated_store" not in " ".join(one.cmdline())}
        os.truncate(tmp_path / "store" / "data.mdb", 3 * 4096)
        for n in range(20):
            by_id = request | {"user": {"id": n}}
            assert httpx2.post(f"{address}/rank", json=by_id).status_code in (200, 400)
            assert httpx2.post(f"{address}/rank", json=request).status_code == 200
            time.sleep(0.05)
        assert pids <= {one.pid for one in (process, *process.children(recursive=True))}
