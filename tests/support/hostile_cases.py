"""Cases of hostile files: how they are run, watched and counted."""

import os
import random
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from corank.core.errors import CorankError
from tests.support.waiting import PATIENCE

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\x00", "../../canary", "/etc/passwd", "a" * 5000, [], {}, [[]], [None], {"": {}}),
]


@dataclass
class Outcome:
    """Counts of cases."""

    cases: int = 0
    accepted: int = 0
    """Those in which the mutation did no harm."""
    failed: int = 0
    """Those that raised what is no error of the user's."""
    hung: int = 0
    escaped: int = 0
    """Those that touched a file outside of the case's folder."""
    first: str = ""
    """The first failure, in words."""
    slowest: float = 0.0
    """Seconds of the slowest case."""

    def add(self, other: "Outcome") -> None:
        """Add the counts of other cases."""
        self.cases, self.accepted = self.cases + other.cases, self.accepted + other.accepted
        self.failed, self.hung = self.failed + other.failed, self.hung + other.hung
        self.escaped, self.slowest = self.escaped + other.escaped, max(self.slowest, other.slowest)
        self.note(other.first)

    def note(self, what: str) -> None:
        """Keep the first failure."""
        self.first = self.first or what[:1500]


class FileWatch:
    """Sees, by an audit hook, which files below a folder are touched while it is armed."""

    def __init__(self) -> None:
        self.canary, self.allowed, self.touched = "", "", list[str]()
        sys.addaudithook(self._hook)

    @contextmanager
    def armed(self, canary: Path, allowed: Path) -> Iterator[list[str]]:
        """Collect what is opened below `canary`, or written outside of `allowed`."""
        self.touched = []
        self.canary, self.allowed = str(canary), str(allowed)
        try:
            yield self.touched
        finally:
            self.canary = self.allowed = ""

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.allowed or event not in EVENTS:
            return
        for path in (
            os.fsdecode(part) for part in arguments[:2] if isinstance(part, str | bytes | os.PathLike)
        ):
            absolute = os.path.normpath(os.path.join(self.allowed, path)) if path else ""  # noqa: PTH118
            writes = event != "open" or (
                len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & WRITES
            )
            if absolute.startswith(self.canary) or (
                writes and path.startswith("/") and self._outside(absolute)
            ):
                self.touched.append(f"{event} {path}")

    def _outside(self, path: str) -> bool:
        if path.startswith((self.allowed, "/proc/")):
            return False
        # folders of tests may lie in /dev/shm
        tests = os.environ.get("PYTEST_DEBUG_TEMPROOT")
        return not path.startswith("/dev/") or (tests is not None and path.startswith(f"{tests}/"))


EVENTS = {"open", "os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class HostileFolder(ABC):
    """Writes and opens mutations of one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Args:
            folder: for the cases, next to files that none may touch.
            name: of the folder of a case.
        """
        self.canary, self.case = folder / "canary", folder / "case" / name
        self.canary.mkdir(parents=True)
        (self.canary / "file").write_text("untouched")

    @abstractmethod
    def write(self, random_: random.Random) -> None:
        """Write the sound folder with a mutation or two to `case`."""

    @abstractmethod
    def open(self) -> None:
        """Open the case, and use it."""

    def run(self, cases: int, seed: int, watch: FileWatch) -> Outcome:
        """Open mutated folders, and use those that open."""
        outcome, random_ = Outcome(), random.Random(seed)
        for _ in range(cases):
            self.write(random_)
            outcome.cases += 1
            with watch.armed(self.canary, self.case.parent) as touched:
                attempt(outcome, self.open, f"{self.case.name} {outcome.cases} of seed {seed}")
            if touched or (self.canary / "file").read_text() != "untouched":
                outcome.escaped += 1
                outcome.note(f"touched {touched}")
        return outcome

    def check(self, cases: int, accepted: int, seed: int) -> None:
        """Assert that all cases are used or refused, and that fewer than `accepted` are used."""
        outcome = self.run(cases, seed, FileWatch())
        assert (outcome.failed, outcome.hung, outcome.escaped) == (0, 0, 0), outcome.first
        assert outcome.cases == cases and outcome.accepted < accepted

    def put_link(self, random_: random.Random, place: Path) -> None:
        """Put a link or a pipe in the place of a file or a folder."""
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if random_.random() < 0.2:
            os.mkfifo(place)
        else:
            place.symlink_to(self.canary / random_.choice(["file", ""]))


class _HangError(BaseException):
    """A case has taken too long; no library catches it."""


def attempt(found: Outcome, act: Any, what: str) -> None:
    """Run a case: it succeeds, or raises an error of the user's, in time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _HangError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    began = time.perf_counter()
    try:
        act()
        found.accepted += 1
    except CorankError:
        pass
    except _HangError:
        found.hung += 1
        found.note(f"{what}: hung")
    except BaseException as error:
        found.failed += 1
        found.note(f"{what}: {error!r}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        found.slowest = max(found.slowest, time.perf_counter() - began)
