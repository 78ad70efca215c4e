"""A service that starts while its store is away serves what was live last on this machine, or says why it cannot."""

import shutil
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from corank.core.errors import StoreError
from corank_serve.http.follower import Follower
from corank_serve.store.base import open_store
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from corank_serve.store.source import StoreSource, open_last_live, write_last_live
from tests.support.command_line import run_corank
from tests.support.random_worlds import RICH
from tests.support.redis_server import redis_server
from tests.support.service import running_service
from tests.support.shared import derived, shared_case
from tests.support.stores import following
from tests.support.waiting import eventually


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a live version, that a service has followed with `tmp_path / "cache"`."""
    url = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(url, create=True)) as store:
        publish_bundle(derived().base / "bundle", store)
    with following(url, tmp_path / "cache"):
        return url


def take_away(tmp_path: Path) -> Path:
    """Move the store, as a mount that is absent."""
    return (tmp_path / "store").rename(tmp_path / "moved")


def test_the_version_that_was_live_last_is_served_from_the_cache_and_followed_later(
    url: str, tmp_path: Path
) -> None:
    store, reports = take_away(tmp_path), list[str]()
    with following(url, tmp_path / "cache", reports.append) as follower:
        assert follower.from_cache and follower.trouble is not None
        (line,) = reports
        assert "there is no store at" in line
        assert f"serving {follower.funnel.manifest.content}, which was served last, from the cache" in line
        store.rename(tmp_path / "store")
        follower.refresh()
        assert not follower.from_cache and follower.trouble is None
        with closing(open_store(url)) as opened:
            assert follower.funnel.manifest.items_seq == StoreState.read(opened)[1].seq


def test_without_a_sound_version_in_the_cache_the_start_fails(url: str, tmp_path: Path) -> None:
    bundle = open_last_live(tmp_path / "cache", url)
    assert bundle is not None
    shutil.rmtree(tmp_path / "store")
    open_store(url, create=True).close()
    with following(url, tmp_path / "cache") as follower:
        assert follower.from_cache and "nothing is live" in str(follower.trouble)
    take_away(tmp_path)
    part = bundle.folder / next(iter(bundle.manifest.files))
    part.write_bytes(part.read_bytes()[:-1] + b"\0\0")
    for cache in ("another cache", "cache"):
        with pytest.raises(StoreError, match="there is no store at"):
            Follower(StoreSource(url, tmp_path / cache))


def test_a_version_of_another_store_is_not_served(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_last_live(cache, "lmdb:store") is not None, "a relative path is the same store"
    assert open_last_live(cache, "lmdb:store?gib=2") is not None, "and so is another size"
    monkeypatch.chdir(elsewhere)
    assert open_last_live(cache, "lmdb:store") is None
    note = next(cache.glob("live-*.json"))
    note.write_text(note.read_text().replace('"version":"', '"version":"../cache/'))
    assert open_last_live(cache, url) is None, "a version is a name, no path"
    write_last_live(elsewhere, "redis://user:secret@host:1/0", "a" * 16 + "-1-" + "b" * 8)
    (note,) = elsewhere.iterdir()
    assert "secret" not in note.read_text() and "redis://host:1/0" in note.read_text()


@pytest.mark.parametrize(("option", "workers"), [("--log", 1), ("--cache", 2)])
def test_a_folder_that_cannot_be_written_stops_the_start(
    option: str, workers: int, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    folders = {"--cache": tmp_path / "cache"} | {option: tmp_path / "file" / "folder"}
    flags = [word for pair in folders.items() for word in pair]
    code, out, err = run_corank(capsys, "serve", url, "--port", 0, "--workers", workers, *flags)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {option}: nothing can be written to {tmp_path}/file/folder")
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.store
def test_workers_start_without_the_store_and_follow_it_when_it_is_back(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with redis_server(tmp_path, keeps=True) as server:
        with closing(open_store(server.url)) as store:
            publish_bundle(shared_case(RICH).base / "bundle", store)
        with following(server.url, cache):
            pass
        server.stop()
        with running_service(server.url, cache, "--every", "0.1", workers=2) as (url, _):
            assert httpx2.get(f"{url}/version").json()["from_cache"]
            answer = httpx2.post(f"{url}/rank", json={"user": {"id": 1}, "candidates": [1, 2]})
            assert (answer.status_code, answer.json()["user"]) == (200, "unavailable")
            figures = httpx2.get(f"{url}/metrics").text
            assert "corank_from_cache 1.0" in figures and "corank_source_up 0.0" in figures
            assert "corank_ready 1.0" in figures
            server.start()
            eventually(lambda: "corank_from_cache 0.0" in httpx2.get(f"{url}/metrics").text)
            with closing(open_store(server.url)) as store:
                seq = StoreState.read(store)[1].seq
            assert httpx2.get(f"{url}/status").json()["known_seq"] == seq
            assert httpx2.get(f"{url}/version").json()["items_seq"] == seq
