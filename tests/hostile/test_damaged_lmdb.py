"""Damage to the file of an LMDB store: an error, or the end of one process, and never a wrong answer."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx2
import pytest

from corank.core.errors import StoreError
from corank_serve.store.backends.lmdb import META
from corank_serve.store.base import open_store
from corank_serve.store.live_version import USERS
from corank_serve.store.publish import publish_bundle
from corank_serve.store.users import encode_user
from tests.support import damaged_store_reader
from tests.support.service import running_service, workers_of
from tests.support.shared import derived
from tests.support.stores import item, put
from tests.support.waiting import PATIENCE, eventually

PAGE = 4096
Damage = Callable[[Path], object]


def overwrite(content: bytes, at: int, file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def change_head(field: int, value: int, file: Path) -> None:
    """Set a field of the second meta page."""
    with file.open("r+b") as opened:
        opened.seek(PAGE)
        fields = [*META.unpack(opened.read(META.size))]
        fields[field] = value
        opened.seek(PAGE)
        opened.write(META.pack(*fields))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a version, an item that changed, and users."""
    path = tmp_path_factory.mktemp("sound") / "store"
    with closing(open_store(f"lmdb:{path}", create=True)) as store:
        publish_bundle(derived().base / "bundle", store)
        put(store, derived().base / "bundle", item(3, worth=9.0))
        users = [(b"i" + (n ^ 2**63).to_bytes(8, "big"), encode_user({"note": str(n)})) for n in range(200)]
        store.put({USERS: users})
    return path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (partial(os.truncate, length=0), "its head is damaged, or not LMDB's"),
        (partial(os.truncate, length=100), "its head is damaged, or not LMDB's"),
        (partial(os.truncate, length=PAGE), "its head is damaged, or not LMDB's"),
        (partial(os.truncate, length=3 * PAGE), r"it has 12,288 bytes, and its pages take \d\d\d,\d\d\d"),
        (partial(overwrite, bytes(PAGE), 0), "its head is damaged, or not LMDB's"),
        (partial(overwrite, bytes(PAGE), PAGE), "its head is damaged, or of another release of LMDB"),
        (partial(overwrite, b"\xff" * 2 * PAGE, 0), "its head is damaged, or not LMDB's"),
        (partial(change_head, 0, 0), "its head is damaged, or of another release of LMDB"),
        (partial(change_head, 1, 1), "its head is damaged, or of another release of LMDB"),
        (partial(change_head, 2, 999), "its head is damaged, or of another release of LMDB"),
        (partial(change_head, 3, 512), "its head is damaged, or of another release of LMDB"),
        (partial(change_head, 4, 2**40), r"it has \d\d\d,\d\d\d bytes, and its pages take 4,503,"),
    ],
)
def test_a_file_whose_head_or_length_is_wrong_is_refused_when_it_is_opened(
    copy: Path, damage: Damage, why: str
) -> None:
    damage(copy / "data.mdb")
    with pytest.raises(
        StoreError, match=rf"lmdb:{copy}: cannot be opened: {why}.*; restore a backup, or publish into a new"
    ):
        open_store(f"lmdb:{copy}")


def test_a_write_leaves_the_file_as_long_as_its_last_page_tells(copy: Path) -> None:
    file = copy / "data.mdb"
    with closing(open_store(f"lmdb:{copy}")) as store:
        before = file.stat().st_size
        store.put({"gone": [(b"key", bytes(100 * PAGE))]})
        store.drop("gone")
        os.truncate(file, before)  # LMDB may leave out pages at the end that nothing uses
        store.put({"a": [(b"key", b"value")]})
    with closing(open_store(f"lmdb:{copy}")) as store:
        assert store.get("a", [b"key"]) == [b"value"]
    assert file.stat().st_size >= before + 100 * PAGE


def damage_pages(file: Path, draw: random.Random) -> None:
    """Cut a file, or zero, overwrite or exchange some of its pages."""
    content = bytearray(file.read_bytes())
    pages, kind = len(content) // PAGE, draw.choice(("cut", "zero", "overwrite", "exchange"))
    for _ in range(draw.choice((1, 1, 3, 10))):
        at, other = draw.randrange(pages) * PAGE, draw.randrange(pages) * PAGE
        new = {"zero": bytes(PAGE), "overwrite": draw.randbytes(PAGE), "exchange": content[other:][:PAGE]}
        content[at : at + PAGE] = new.get(kind, content[at : at + PAGE])
    file.write_bytes(content[: draw.randrange(len(content))] if kind == "cut" else content)


def test_damage_is_an_error_or_the_end_of_one_process_and_never_a_wrong_answer(
    sound: Path, tmp_path: Path
) -> None:
    folders, answers = [sound], list[str]()
    for seed in range(30):
        folders.append(Path(shutil.copytree(sound, tmp_path / f"{seed}")))
        damage_pages(folders[-1] / "data.mdb", random.Random(seed))
    command = [sys.executable, "-m", damaged_store_reader.__name__, str(tmp_path / "cache")]
    while len(answers) < len(folders):
        urls = [f"lmdb:{folder}" for folder in folders[len(answers) :]]
        done = subprocess.run([*command, *urls], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode <= 0, done.stderr
        answers += done.stdout.splitlines() + ["killed"] * (done.returncode < 0)
    assert not answers[0].startswith("error")
    wrong = {answer for answer in answers if not answer.startswith("error:")} - {answers[0], "killed"}
    assert not wrong and sum(answer.startswith("error:") for answer in answers) > 20


@pytest.mark.slow
def test_a_service_whose_store_is_cut_goes_on_by_its_cache(sound: Path, copy: Path, tmp_path: Path) -> None:
    request = derived().request("test", 0)
    with running_service(f"lmdb:{copy}", tmp_path / "cache", "--every", "0.1") as (address, process):
        assert httpx2.post(f"{address}/rank", json=request).status_code == 200
        os.truncate(copy / "data.mdb", 3 * PAGE)

        def is_served() -> bool:
            try:
                httpx2.post(f"{address}/rank", json=request | {"user": {"id": 1}})
                status = httpx2.get(f"{address}/status").json()
                return "its pages take" in str(status) and (
                    httpx2.post(f"{address}/rank", json=request).status_code == 200
                )
            except httpx2.HTTPError:  # its worker died
                return False

        eventually(is_served)
        shutil.rmtree(copy)
        shutil.copytree(sound, copy)
        eventually(lambda: "its pages take" not in httpx2.get(f"{address}/status").text)
        assert workers_of(process)
