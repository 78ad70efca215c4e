"""Runs whose checkpoints are those of several ranks, made of those of one process."""

from pathlib import Path

from corank.core.artifact import ArtifactWriter, new_content
from corank.distributed.row_shards import ALL_BUCKETS
from corank.training.checkpoints.checkpoint import Checkpoint, SplitTable, TablePart
from corank.training.checkpoints.checkpoint_files import copy_shard, load, write_shard
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.run import CHECKPOINTS, Run
from tests.support.shared import copy_run


def split_run(run: Run, folder: Path, ranks: int) -> Run:
    """A copy of a finished run in a new folder, as some ranks would have written it."""
    copied = copy_run(run, folder)
    for name in CHECKPOINTS:
        write_split(folder / name, with_tables(load(folder / name)), ranks)
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
    whole = {name: tensor for name, tensor in held.tensors.items() if name not in names}
    return Checkpoint(whole, held.facts, tables)


def write_split(folder: Path, checkpoint: Checkpoint, ranks: int) -> None:
    """Write what some ranks would write."""
    writer = ArtifactWriter.of(folder, CheckpointManifest)
    content = writer.begin(new_content())
    for rank in range(ranks):
        write_shard(content, rank, ranks, copy_shard(checkpoint, rank, ranks))
    writer.commit(content, CheckpointManifest.outline(checkpoint))
