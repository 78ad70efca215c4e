"""The registry of stores, and the contract that each of them keeps."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import httpx2
import polars as pl
import pytest

import corank
from corank.core.errors import PluginError, StoreError
from corank.core.registry import PLUGINS, load_plugins
from corank.training.run import Run
from corank_serve.store.base import STORES, is_store, open_store
from corank_serve.store.publish import publish_bundle
from corank_serve.testing import StoreConformance
from examples.plugins.folder_store import FolderStore
from tests.support.command_line import run_corank
from tests.support.redis_cluster import shared_cluster
from tests.support.redis_server import Server, redis_server
from tests.support.service import running_service
from tests.support.shared import derived
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

PLUGIN = "examples.plugins.folder_store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    """The folder store, here and in other processes."""
    load_plugins([PLUGIN])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, PLUGIN)
        yield


class TestLMDBStore(StoreConformance):
    def new_url(self, folder: Path) -> str:
        return f"lmdb:{folder / 'store'}"


@pytest.mark.store
class TestRedisStore(StoreConformance):
    @pytest.fixture
    def url(self, server: Server) -> str:
        return f"{server.url}?prefix={uuid4().hex}"


@pytest.mark.store
class TestRedisClusterStore(StoreConformance):
    @pytest.fixture
    def url(self) -> str:
        return shared_cluster().url


class TestFolderStore(StoreConformance):
    def new_url(self, folder: Path) -> str:
        return f"folder:{folder}"


def test_other_addresses_are_refused() -> None:
    for url in ("", "store", "/some/folder", "mysql://host", "redis:host", "LMDB:x"):
        with pytest.raises(
            StoreError,
            match=r"expected (folder:PATH or )?lmdb:PATH or redis://HOST:PORT or redis\+cluster://HOST:PORT; rec",
        ):
            open_store(url)
    for url in ("mysql://user:secret@host", "redis:secret@host", "http://:se@cret@host?password=secret&x=1"):
        with pytest.raises(StoreError) as raised:
            open_store(url)
        assert "secret" not in str(raised.value) and "host" in str(raised.value)


def test_whether_something_is_a_stores_url(tmp_path: Path) -> None:
    for url in ("lmdb:x", "redis://host", "unix:///x", "folder:x", "redis:host", "mysql://host", "unknown:x"):
        assert is_store(url)
    for path in ("bundle", "some/bundle", str(tmp_path), "./lmdb:x", "LMDB:x"):
        assert not is_store(path)
    colon = tmp_path / "odd:name"
    colon.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert not is_store("odd:name")


def lacking(name: str) -> type:
    """A store without one member."""
    members = {key: value for key, value in vars(FolderStore).items() if key != name}
    return type("LackingStore", (), members)


def test_what_is_no_store_class_is_refused() -> None:
    for name in ("head", "swap", "put", "get", "scan", "count", "drop", "tables", "close"):
        with pytest.raises(PluginError, match=rf"store 'lacking': LackingStore lacks {name}\(\) of Store"):
            STORES.register("lacking")(lacking(name))
        assert "lacking" not in STORES
    with pytest.raises(
        PluginError, match="store 'lacking': LackingStore lacks `url_form`, the form of its URLs"
    ):
        STORES.register("lacking")(lacking("url_form"))
    with pytest.raises(PluginError, match=r"LackingStore is opened as LackingStore\(url, create\)"):
        STORES.register("lacking")(lacking("__init__"))
    with pytest.raises(PluginError, match="store 'lacking': expected a class; received"):
        STORES.register("lacking")(lacking)
    with pytest.raises(PluginError, match=r"store 'lmdb': the name is taken by .*LMDBStore"):
        STORES.register("lmdb")(FolderStore)


def test_commands_take_the_store_of_a_plug_in(
    trained: Run, trained_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Publish with users, serve with a log, replay, list, roll back and prune."""
    url, cache = f"folder:{tmp_path / 'store'}", tmp_path / "cache"
    users = trained.base / "users.parquet"
    code, _, err = run_corank(capsys, "publish", trained_bundle, url, "--users", users)
    assert code == 0 and "users: " in err, err
    options = ("--log", str(tmp_path / "log"), "--store-deadline-ms", str(1e3 * PATIENCE))
    with running_service(url, cache, *options) as (address, _):
        body = {"user": {"id": int(pl.read_parquet(users)["user_id"][0])}, "candidates": [1, 2, 3]}
        answer = httpx2.post(f"{address}/rank", json=body).json()
        assert answer["user"] == "stored" and len(answer["items"]) == 3
    code, out, err = run_corank(capsys, "replay", tmp_path / "log", url, "--cache", cache, "--json")
    assert code == 0 and json.loads(out)["differ"] == 0, err
    (first,) = corank.store_versions(url)
    with closing(open_store(url)) as store:
        second = publish_bundle(derived().base / "bundle", store)
    code, out, err = run_corank(capsys, "store", "ls", url, "--json")
    assert [(one["version"], one["live"]) for one in json.loads(out)] == [
        (first["version"], False),
        (second, True),
    ]
    assert run_corank(capsys, "store", "rollback", url)[0] == 0
    assert [one["live"] for one in corank.store_versions(url)] == [True, False]
    assert run_corank(capsys, "store", "prune", url, "--keep", "0")[0] == 0


def test_a_store_of_a_plug_in_that_is_not_loaded_is_refused(tmp_path: Path) -> None:
    code = "import sys, corank; corank.store_versions(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, f"folder:{tmp_path}"],
        capture_output=True,
        text=True,
        env=os.environ | {PLUGINS: ""},
    )
    assert f"redis+cluster://HOST:PORT; received 'folder:{tmp_path}'; a plug-in's store needs" in done.stderr
    assert "a plug-in's store needs --plugin MODULE" in done.stderr
