"""Runs whose checkpoints are those of several ranks, made of those of one process."""

import shutil
from pathlib import Path

from corank.training.checkpoints.checkpoint import ALL_BUCKETS, Checkpoint, SplitTable, TablePart
from corank.training.checkpoints.checkpoint_files import CheckpointLocation
from corank.training.checkpoints.shards import (
    ShardManifest,
    copy_shard,
    outline_checkpoint,
    shard_file,
    write_shard,
)
from corank.training.run import Run
from tests.support.shared import copy_run

CONTENT = "0123abcd"


def split_run(run: Run, folder: Path, ranks: int) -> Run:
    """A copy of a finished run in a new folder, as some ranks would have written it."""
    copied = copy_run(run, folder)
    for name in ("latest", "best", "model"):
        location = CheckpointLocation(folder, name)
        write_folder(location.folder, with_tables(location.load()), ranks)
        location.file.unlink()
    return copied


def with_tables(held: Checkpoint) -> Checkpoint:
    """The checkpoint of one process, its tables identified by their names."""
    names = {
        name for name in held.names if ("tables." in name or "optimiser.table." in name) and held.shape(name)
    }
    tables = {
        name: SplitTable(len(tensor), (TablePart(ALL_BUCKETS, tensor),))
        for name, tensor in held.tensors.items()
        if name in names
    }
    return Checkpoint(held.without(names).tensors, held.facts, tables)


def write_folder(folder: Path, checkpoint: Checkpoint, ranks: int) -> None:
    """Write what some ranks would write."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / CONTENT).mkdir(parents=True)
    files = {
        shard_file(rank, ranks): write_shard(
            folder / CONTENT, rank, ranks, copy_shard(checkpoint, rank, ranks), set(checkpoint.tables)
        )
        for rank in range(ranks)
    }
    ShardManifest.of(outline_checkpoint(checkpoint), CONTENT, files).write(folder)
