"""Locks of what one process at a time may write."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from corank.core.errors import BusyError
from corank.core.locks import LOCK, LockHolder, WriteLock
from tests.support.kills import start
from tests.support.waiting import eventually

NOTES = [
    b"",
    b'{"command":"x","pid":99999999999999999999,"host":"h","since":0}',
    b'{"command":"\\u001b[2J","pid":1,"host":"elsewhere","since":0}',
    b"\xff" * 99,
]
"""What cannot be shown of a holder."""


def hold(folder: Path, ready: Path, command: str = "train") -> None:
    """Lock a folder until the process is killed."""
    with WriteLock(folder, command):
        ready.touch()
        signal.pause()


def hold_and_fork(folder: Path, ready: Path) -> None:
    """Lock a folder, with a child that outlives this process, until there is no file `ready` any more."""
    with WriteLock(folder, "pack"):
        ready.touch()
        if not os.fork():
            eventually(lambda: not ready.exists())
            os._exit(0)
        ready.with_suffix(".forked").touch()
        signal.pause()


@pytest.mark.slow
def test_a_second_writer_is_told_who_writes_since_when_and_what_to_do(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", tmp_path / "ready"
    holder = start(hold, folder, ready)
    eventually(ready.exists)
    with pytest.raises(BusyError) as error:
        WriteLock(folder, "export")
    holder.kill()
    holder.join()
    assert re.fullmatch(
        rf"{re.escape(str(folder))}: corank train \(process {holder.pid} on {re.escape(socket.gethostname())}, "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\) is writing it; "
        "wait until it has ended, or end that process",
        str(error.value),
    )


def test_the_lock_of_a_killed_process_is_none_and_its_file_is_taken_over(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", tmp_path / "ready"
    holder = start(hold, folder, ready)
    eventually(ready.exists)
    holder.kill()
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    assert (folder / LOCK).exists()
    with WriteLock(folder, "export"):
        assert LockHolder.read(folder / LOCK) is not None
    assert not (folder / LOCK).exists()


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", tmp_path / "ready"
    holder = start(hold_and_fork, folder, ready)
    eventually(ready.with_suffix(".forked").exists)
    with pytest.raises(BusyError, match="corank pack"):
        WriteLock(folder, "train")
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    eventually(lambda: LockHolder.read(folder / LOCK) is None)
    with WriteLock(folder, "train"):
        pass
    ready.unlink()


def test_one_folder_by_two_names_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "real")
    with WriteLock(tmp_path / "link", "pack"), pytest.raises(BusyError):
        WriteLock(tmp_path / "elsewhere" / "link", "pack")


def test_two_parts_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with WriteLock(tmp_path, "export"), pytest.raises(BusyError, match=f"process {os.getpid()} on"):
        WriteLock(tmp_path, "refresh")


def test_nothing_is_left_of_a_lock_and_a_folder_that_it_made_goes_if_it_is_empty(tmp_path: Path) -> None:
    with WriteLock(tmp_path / "empty", "train"):
        pass
    with WriteLock(tmp_path / "full", "train"):
        (tmp_path / "full" / "run.json").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["full", "full/run.json"]


@pytest.mark.slow
@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_cannot_be_read_stops_nobody(tmp_path: Path, note: bytes) -> None:
    (tmp_path / LOCK).write_bytes(note)
    with WriteLock(tmp_path, "train"):
        (tmp_path / LOCK).write_bytes(note)
        with pytest.raises(BusyError, match="another process is writing it"):
            WriteLock(tmp_path, "train")


def test_a_lock_is_not_followed_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        WriteLock(tmp_path, "train")
    assert (tmp_path / "victim").read_text() == "mine"
