"""The working folder of a packing: where its tasks leave files, and what a killed packing had done."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from corank.core.errors import EngineError
from corank.core.files import replace_folder, resumable_folder, retire_folder, sync_folder
from corank.core.types import Progress, Report
from corank.core.version import corank_version
from corank.engine.base import Engine

T = TypeVar("T")
R = TypeVar("R")

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class PackWorkspace:
    """A folder next to the packed data, named by their fingerprint, and the engine that runs the steps.

    A step is a list of tasks. A task leaves its files, each complete under its name at once (`write_beside`), and then
    its result, in JSON types, as a marker. A packing of the same fingerprint reuses these; tasks that lack
    their marker run again. So a task depends on the files of earlier steps alone, and changes none of them.
    """

    folder: Path
    engine: Engine
    report: Report

    @property
    def packed(self) -> Path:
        """The packed data, which are moved to their place at the end."""
        return self.folder / "packed"

    @property
    def spill(self) -> Path:
        """For files between two steps."""
        return self.folder / "spill"

    def run(
        self,
        step: str,
        function: Callable[[T], R],
        tasks: Sequence[T],
        progress: Progress = lambda done, total: None,
    ) -> list[R]:
        """Run a step on the engine.

        Args:
            step: its name, which no other step has.
            function: takes a task, returns JSON types; an object that holds, or opens from files, what tasks share.
            tasks: depend on the config and the tables alone, not on the engine.
            progress: receives how many tasks are done, and of how many.

        Returns:
            The results in the order of the tasks.

        Raises:
            EngineError, and what the function raises.
        """
        marks = self.folder / "done" / step
        marks.mkdir(parents=True, exist_ok=True)
        missing = [(n, task) for n, task in enumerate(tasks) if not _mark(marks, n).is_file()]
        before = len(tasks) - len(missing)
        self.engine.run(
            _MarkedFunction(function, self.folder, step),
            missing,
            lambda done, _: progress(before + done, len(tasks)),
        )
        return [json.loads(_mark(marks, n).read_bytes()) for n in range(len(tasks))]

    def run_here(self, step: str, function: Callable[[], R]) -> R:
        """Run a step of one task in this process, unless a killed packing had done it."""
        mark = _mark(self.folder / "done" / step, 0)
        if not mark.is_file():
            mark.parent.mkdir(parents=True, exist_ok=True)
            _write_mark(mark, function())
        result: R = json.loads(mark.read_bytes())
        return result

    def publish(self, out: Path) -> None:
        """Move the packed data to their place. From then on nothing of the working folder is taken any more."""
        sync_folder(self.packed)
        retired = retire_folder(self.folder)
        replace_folder(out, retired / self.packed.name)
        shutil.rmtree(retired, ignore_errors=True)


@dataclass(frozen=True)
class _MarkedFunction(Generic[T]):
    """Runs a task of a step, and leaves its result as a marker."""

    function: Callable[[T], Any]
    folder: Path
    step: str

    def __call__(self, numbered: tuple[int, T]) -> None:
        if not self.folder.is_dir():
            raise EngineError(
                f"{self.folder}: is not there on {socket.gethostname()}; machines that pack together need a file "
                "system that all of them share, with the config and the tables at the same paths"
            )
        number, task = numbered
        _write_mark(_mark(self.folder / "done" / self.step, number), self.function(task))


def _mark(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _write_mark(path: Path, result: Any) -> None:
    with write_beside(path) as partial:
        partial.write_bytes(json.dumps(result).encode())


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Write a file or a folder of a working folder under another name first, so that it is complete or missing.

    A folder that exists stays: another run of the same task wrote the same. What a killed process leaves
    begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
    yield partial
    try:
        partial.rename(path)
    except OSError:
        if not path.is_dir():
            raise
        shutil.rmtree(partial)


@contextmanager
def open_workspace(
    out: Path, fingerprint: str, constants: Sequence[int], engine: Engine, report: Report
) -> Iterator[PackWorkspace]:
    """Make the working folder, or continue in the one that a killed packing of the same fingerprint left.

    It is removed when the block ends or fails. A packing that is interrupted, or whose engine fails, leaves it.

    Args:
        out: the packed data's folder, whose lock the caller holds.
        constants: what the tasks depend on in addition to the fingerprint.

    Raises OSError.
    """
    facts = {
        "fingerprint": fingerprint,
        "corank": corank_version(),
        "constants": list(constants),
        # after a crash of the machine the last writes may not be on disk
        "boot": _BOOT.read_text().strip() if _BOOT.exists() else os.urandom(8).hex(),
    }
    mark = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    with resumable_folder(out, mark, keep=(EngineError,)) as folder:
        done = len(list(folder.glob("done/*/*.json")))
        if done:
            report(f"going on with a packing that was interrupted after {done:,} tasks")
        for part in ("packed", "spill"):
            (folder / part).mkdir(exist_ok=True)
        yield PackWorkspace(folder, engine, report)
