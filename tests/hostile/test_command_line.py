"""A mistake in a command, a full disk, a closed pipe or Ctrl-C: one line, an exit status, never a traceback."""

import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.waiting import PATIENCE, eventually

CORANK = [sys.executable, "-m", "corank"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files and folders that are none of corank's."""
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


HOSTILE = [
    *("missing", "empty", "binary", "folder", "loop", "empty/x", "", ".", "/dev/null", "x" * 300, "a\tb\n"),
    *("lmdb:missing", "lmdb:binary", "redis://127.0.0.1:1", "redis://127.0.0.1:99999", "ftp://x", "lmdb:"),
]
COMMANDS = [
    *(
        "check {}",
        "pack {}",
        "train {}",
        "experiment {} structures",
        "train {} --resume",
        "evaluate {}",
        "report {}",
    ),
    *("explain {}", "request {}", "export {} out", "rank {} empty", "refresh {} empty", "publish {} lmdb:st"),
    *("publish folder {}", "store ls {}", "store rollback {}", "store prune {}", "vectors {} empty out"),
    *("replay {} folder", "replay empty {}", "import kuairand {} out", "import recflow {} out", "serve {}"),
    *("--plugin {} check empty", "evaluate folder --reference {}"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_command_is_given_its_error_is_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    # a service starts a process for each
    for hostile in HOSTILE[::4] if command == "serve {}" else HOSTILE:
        arguments = [hostile if part == "{}" else part for part in command.split()]
        code, _, err = run_corank(capsys, *arguments)
        assert code in (1, 2), arguments
        assert err and "Traceback" not in err, arguments


def test_a_share_of_requests_that_is_none_is_refused(
    folder: Path, trained_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for share in ("0", "-1", "1.5", "nan", "many"):
        code, _, err = run_corank(capsys, "serve", trained_bundle, "--log", "log", "--log-share", share)
        assert code in (1, 2) and "share" in err and "Traceback" not in err
    assert not (folder / "log").exists()


def run(*arguments: object, **popen: object) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    return subprocess.Popen([*CORANK, *map(str, arguments)], text=True, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("size", [512, 20_000])
def test_a_full_disk_ends_a_simulation_with_one_message(folder: Path, size: int) -> None:
    done = run(
        *("simulate", "world", "--requests", 500),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    err = done.communicate(timeout=PATIENCE)[1]
    assert done.returncode == 1
    assert (
        err.startswith("error: world: cannot be written: File too large; free space") and err.count("\n") == 1
    )


@pytest.mark.slow
def test_output_that_cannot_be_written_is_told_and_a_closed_pipe_ends_in_silence(trained: Run) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("request", trained.folder, stdout=full)
        err = done.communicate(timeout=PATIENCE)[1]
    assert (done.returncode, err) == (1, "error: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = run("request", trained.folder, stdout=writer)
    os.close(writer)
    err = done.communicate(timeout=PATIENCE)[1]
    assert (done.returncode, err) == (128 + signal.SIGPIPE, "")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["loading", "working"])
def test_an_interrupt_ends_a_command_without_a_traceback(folder: Path, moment: str) -> None:
    before = {*folder.iterdir()}
    # a shell ignores interrupts for what it starts in the background, and so would the command
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with run("simulate", "world", "--requests", 10_000_000, preexec_fn=heed) as done:
        try:
            maps = Path(f"/proc/{done.pid}/maps")
            eventually(
                lambda: "numpy" in maps.read_text() if moment == "loading" else {*folder.iterdir()} - before
            )
            done.send_signal(signal.SIGINT)
            err = done.communicate(timeout=PATIENCE)[1]
        finally:
            done.kill()  # or it takes a core from all other tests
    assert done.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err and "Error" not in err


LOADING = """
import os, signal, time
from corank.__main__ import end_process
signal.signal(signal.SIGINT, end_process)
import polars
os.kill(os.getpid(), signal.SIGINT)
time.sleep(600)
"""


def test_an_interrupt_is_not_lost_to_the_handler_of_a_module_that_was_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
