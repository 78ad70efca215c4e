"""Files that are written whole or not at all."""

import stat
from pathlib import Path

import pytest

from corank.core.errors import CorankError
from corank.core.files import write_whole


def test_a_file_replaces_what_was_there_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.html"
    for words in ("old", "新"):
        write_whole(path, words)
    assert path.read_text(encoding="utf-8") == "新"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        CorankError, match=r"file/a\.html: cannot be written: .*; name another place with --out"
    ):
        write_whole(tmp_path / "file" / "a.html", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorankError, match="folder: cannot be written"):
        write_whole(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
