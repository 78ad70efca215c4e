"""The working folder of a packing: where its tasks leave files, and what a killed packing had done.

Tables are spread over partitions by request: a file for each range of rows, in which every partition has a part. A
partition is read from all these files, in the order of the table.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from corank.core.arrays import write_frame
from corank.core.artifact import ArtifactWriter, measure_and_sync, new_content
from corank.core.errors import EngineError
from corank.core.files import resumable_folder, retire_folder
from corank.core.reports import Progress, Report
from corank.core.types import Ints
from corank.core.version import corank_version
from corank.data.packed.manifest import PackManifest
from corank.data.tables import RowRange, Table
from corank.engine.base import Engine
from corank.features.encoding import hash_values, mix_hashes

T = TypeVar("T")
R = TypeVar("R")

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class PackWorkspace:
    """A folder next to the content of the packed data, named by their fingerprint, and the engine that runs the steps.

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
            partial(_run_marked, function, self.folder, step),
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

    def publish(self, writer: ArtifactWriter[PackManifest], manifest: PackManifest) -> None:
        """Make the files the packed data. From then on nothing of the working folder is taken any more."""
        for left in self.packed.rglob(".*"):  # of tasks that were killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        files = measure_and_sync(self.packed)
        retired = retire_folder(self.folder)

        def move(content: Path) -> PackManifest:
            (retired / self.packed.name).rename(content)
            return manifest

        try:
            writer.write(new_content(), move, files=files)
        finally:
            shutil.rmtree(retired, ignore_errors=True)


def _run_marked(function: Callable[[T], Any], folder: Path, step: str, numbered: tuple[int, T]) -> None:
    """Run a task of a step, and leave its result as a marker."""
    if not folder.is_dir():
        raise EngineError(
            f"{folder}: is not there on {socket.gethostname()}; machines that pack together need a file system that "
            "all of them share, with the config and the tables at the same paths"
        )
    number, task = numbered
    _write_mark(_mark(folder / "done" / step, number), function(task))


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
    with resumable_folder(out / "work", mark, keep=(EngineError,)) as folder:
        done = len(list(folder.glob("done/*/*.json")))
        if done:
            report(f"going on with a packing that was interrupted after {done:,} tasks")
        for part in ("packed", "spill"):
            (folder / part).mkdir(exist_ok=True)
        yield PackWorkspace(folder, engine, report)


def write_piece(spill: Path, name: str, shard: str, rows: pl.DataFrame) -> Path:
    """Write the rows of a partition, `shard`, under a name, for steps that sort them by another key."""
    path = spill / name / f"{shard}.arrow"
    with write_beside(path) as partial:
        write_frame(partial, rows)
    return path


def write_counts(spill: Path, n: int, shard: str, counts: pl.DataFrame, since: int) -> None:
    """Write what the n-th prior counts of a partition, or of a range of events: rows of `CountedFeature.count`.

    Periods before `since`, ms UTC, are left out.
    """
    kept = counts.filter(pl.col("key") != 0, pl.col("period") >= since)
    write_piece(spill, f"prior{n}", shard, kept.sort("key"))


def find_pieces(spill: Path, name: str, partitions: int) -> list[Path]:
    """List what the partitions left under a name, in order; empty partitions left nothing."""
    paths = (spill / name / f"{n:05d}.arrow" for n in range(partitions))
    return [path for path in paths if path.is_file()]


@dataclass(frozen=True)
class SpreadRows:
    """The task that spreads a range of rows. Its memory is that of a batch."""

    table: Table
    columns: list[pl.Expr]
    request: list[str]
    """The columns of the request key, among those."""
    partitions: int
    folder: Path
    """Receives the files."""

    def __call__(self, task: RowRange) -> list[str]:
        """Write a file for each batch of the range. Returns their names, in order. Raises DataError."""
        names = []
        for n, batch in enumerate(task.read(self.table, self.columns)):
            names.append(f"{task.first:015d}.{n:06d}.arrow")
            with write_beside(self.folder / names[-1]) as partial:
                self._write(partial, batch)
        return names

    def _write(self, path: Path, batch: pl.DataFrame) -> None:
        if self.partitions > 1:
            # numpy sorts 16 bits by radix
            part = hash_requests(batch, self.request, self.partitions).astype(np.uint16)
            order = np.argsort(part, kind="stable")
            batch, bounds = batch[order], np.searchsorted(part[order], np.arange(self.partitions + 1))
        else:
            bounds = np.array([0, len(batch)])
        rows = batch.rechunk().to_arrow().combine_chunks()
        with path.open("wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            for first, end in pairwise(bounds):
                part = rows.slice(first, end - first).to_batches()
                writer.write_batch(part[0] if part else pa.RecordBatch.from_pylist([], schema=rows.schema))


def hash_requests(rows: pl.DataFrame, request: Sequence[str], partitions: int) -> Ints:
    """Return the partition of each row: (N,). The same on every machine, in every version.

    Args:
        rows: the log's or the truth's.
        request: the columns of the request key.
        partitions: their number.
    """
    keys = (rows[name] for name in request)
    hashes = [hash_values(key.to_physical() if key.dtype.is_temporal() else key, "request") for key in keys]
    return (mix_hashes(hashes) % np.uint64(partitions)).astype(np.int32)


def read_partition(files: Sequence[Path], n: int) -> pl.DataFrame:
    """Memory-map the rows of a partition, in the order of the table."""
    batches = []
    for path in files:
        with pa.memory_map(str(path)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(n))
    return pl.DataFrame(pa.Table.from_batches(batches))
