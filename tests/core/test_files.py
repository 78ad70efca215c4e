"""Files that are written whole or not at all."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from corank.core.errors import CorankError, DataError
from corank.core.files import atomic_file, atomic_folder, run_in_threads, write_text


def test_a_file_replaces_what_was_there_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.html"
    for words in ("old", "新"):
        write_text(path, words)
    assert path.read_text(encoding="utf-8") == "新"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorankError, match=r"file/a\.html: cannot be written: .*; name another place$"):
        write_text(tmp_path / "file" / "a.html", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorankError, match="folder: cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_file_whose_writing_fails_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), atomic_file(path) as partial:
        partial.write_text("ne")
        raise ValueError("half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for path in (tmp_path / "folder", tmp_path / "link"):
        with pytest.raises(ValueError, match="half"), atomic_folder(path) as partial:
            (partial / "first").touch()
            raise ValueError("half")
        with atomic_folder(path) as partial:
            (partial / "first").touch()
        with pytest.raises(DataError, match="exists and is not an empty folder"), atomic_folder(path):
            pytest.fail("nothing is to be written")
        assert [file.name for file in path.iterdir()] == ["first"]
    new = tmp_path / "new"
    with pytest.raises(DataError, match="exists and is not"), atomic_folder(new), atomic_folder(new) as first:
        (first / "first").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "link", "real", "new"}


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"
    left, folder = tmp_path / ".partial-a[1].txt-0", tmp_path / ".partial-a[1].txt-1"
    left.write_text("half")
    folder.mkdir()
    with atomic_file(path) as first:
        with atomic_file(path) as second:
            assert first.exists()
            second.write_text("second")
        assert path.read_text() == "second"
        first.write_text("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_after_a_call_in_threads_has_failed_none_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over, end = set[int](), Event(), ThreadPoolExecutor.shutdown

    def call(n: int) -> int:
        begun.add(n)
        if n == 1:
            raise ValueError("the second")
        over.wait()
        return n

    def end_and_release(pool: ThreadPoolExecutor, *arguments: Any, **named: Any) -> None:
        end(pool, *arguments, **named)
        over.set()

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", end_and_release)
    with pytest.raises(ValueError, match="the second"):
        run_in_threads(call, range(100), threads=2)
    assert begun <= {0, 1, 2}
    monkeypatch.undo()
    assert run_in_threads(str, range(3), threads=2) == ["0", "1", "2"]
