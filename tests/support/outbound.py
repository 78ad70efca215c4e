"""Programs whose look-ups and connections to other machines are recorded, and go nowhere."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

PATIENCE = 120
"""Seconds that a program may take, which a busy machine needs now and then."""


def compile_recorder(folder: Path) -> Path:
    """Compile what is preloaded into programs; skips the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("recording connections needs a C compiler")
    source, library = Path(__file__).with_suffix(".c"), folder / "outbound.so"
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


class Outbox:
    """A new home, and what programs that live there look up, connect to and write."""

    def __init__(self, recorder: Path, folder: Path) -> None:
        """`recorder`: from `compile_recorder`; `folder` is made."""
        self._record, self._home = folder / "outbound", folder / "home"
        self._home.mkdir(parents=True)
        self.environment = {
            "HOME": str(self._home),
            "XDG_CACHE_HOME": str(self._home / "cache"),
            "TMPDIR": str(folder),
            "LD_PRELOAD": str(recorder),
            "OUTBOUND": str(self._record),
        }
        """Of a program that is to be recorded."""

    @property
    def contacted(self) -> set[str]:
        """The names that were looked up, and the addresses that were connected to."""
        return set(self._record.read_text().split()) if self._record.exists() else set()

    @property
    def written(self) -> list[str]:
        """The files in the home."""
        return [str(path.relative_to(self._home)) for path in self._home.rglob("*") if path.is_file()]

    def await_contact(self) -> None:
        """Wait until something was looked up or connected to; not for ever, since it need not be."""
        end = time.monotonic() + PATIENCE
        while not self.contacted and time.monotonic() < end:
            time.sleep(0.05)


class WatchedProgram(Outbox):
    """A Python program in a home of its own, which runs until it is closed."""

    def __init__(self, recorder: Path, folder: Path, code: str, settings: Mapping[str, str]) -> None:
        """`settings`: variables of the environment, which has no others of the user's."""
        super().__init__(recorder, folder)
        environment = {"PATH": os.environ["PATH"], **self.environment, **settings}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            text=True,
        )

    def await_ready(self) -> None:
        """Wait until the code has run."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", f"the program ended, or printed {line!r}"

    def close(self) -> None:
        """End the program."""
        self._process.communicate("\n", timeout=PATIENCE)
