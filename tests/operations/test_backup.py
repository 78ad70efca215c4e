"""Copies made as the page on upgrades says are whole, a store's also while it is written, and can be restored."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
import redis

import corank
from corank.core.errors import BundleError
from corank_serve.store.base import open_store
from tests.support.redis_server import redis_server
from tests.support.shared import derived
from tests.support.stores import item, put, requests, served
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "operations" / "upgrades.md"


def printed(word: str, source: Path, target: Path) -> list[str]:
    """The command of the page that begins with a word, of other folders."""
    (line,) = re.findall(rf"^({word} .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    line = re.sub("/srv/shop/[a-z]+", str(source), re.sub("/backup/[a-z]+", str(target), line))
    return [sys.executable if one == "python" else one for one in line.split()]


@contextmanager
def writing(write: Callable[[int], object]) -> Iterator[list[int]]:
    """A thread that writes once more and once more; the numbers of what is written."""
    stop, done, failed = threading.Event(), list[int](), list[BaseException]()

    def run() -> None:
        try:
            for n in count():
                if stop.is_set():
                    return
                write(n)
                done.append(n)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: len(done) > 2 or failed)
        yield done
        after = len(done)
        eventually(lambda: len(done) > after or failed)  # it wrote all the time
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_a_store_copied_while_items_are_put_into_it_can_be_restored(tmp_path: Path) -> None:
    bundle, folder, copy = derived().base / "bundle", tmp_path / "store", tmp_path / "copy"
    corank.publish(bundle, f"lmdb:{folder}")
    with closing(open_store(f"lmdb:{folder}")) as store:
        write = writing(lambda n: put(store, bundle, item(n % 4, 1000 + n)))
        with write as written:
            least = len(written)
            subprocess.run(printed("python", folder, copy), check=True, capture_output=True)
    shutil.rmtree(folder)
    copy.rename(folder)
    with closing(open_store(f"lmdb:{folder}")) as store:
        funnel = served(store, tmp_path / "cache")
        assert funnel.manifest.items_seq > least
        known = [n for n in range(written[-1] + 2) if funnel.describe_item(str(1000 + n)) is not None]
        assert known == [*range(len(known))] and len(known) >= least
        put(store, bundle, item(1, 5))
    assert corank.store_versions(f"lmdb:{folder}")


def test_a_copied_bundle_is_checked_when_it_is_opened(tmp_path: Path) -> None:
    bundle, copy = derived().base / "bundle", tmp_path / "copy"
    subprocess.run(printed("cp", bundle, copy), check=True)
    assert corank.Funnel.open(copy).rank(requests()[0]) is not None
    (table, *_) = copy.rglob("tables/**/*.npy")
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(BundleError, match=table.name):
        corank.Funnel.open(copy)


@pytest.mark.store
def test_a_snapshot_of_redis_is_restored_without_the_append_only_file(tmp_path: Path) -> None:
    bundle, folders = derived().base / "bundle", [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    with redis_server(folders[0], keeps=True) as server:
        corank.publish(bundle, server.url)
        assert redis.Redis(port=server.port).save()
    for folder in folders[1:]:
        shutil.copy(folders[0] / "dump.rdb", folder)
    with redis_server(folders[1]) as server:
        assert corank.Funnel.open(server.url, cache=tmp_path / "cache").rank(requests()[0]) is not None
    with redis_server(folders[2], keeps=True) as server:  # appendonly yes
        assert redis.Redis(port=server.port).dbsize() == 0
