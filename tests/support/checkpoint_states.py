"""States of a training made by hand, of which each rank holds its rows; and the ranks that write them.

As a module, `checkpoint_states FOLDER LAST` on some ranks writes them as `sharded`, `replicated` and `changed`. Then
`sharded` is written a second time, and a third time, at which one of the ranks is killed or finds its disk full.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corank.core.errors import CorankError
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import RowShards
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_writer import CheckpointWriter
from corank.training.checkpoints.location import CheckpointLocation
from corank.training.checkpoints.shard_manifest import ShardManifest
from corank.training.checkpoints.split_table import SplitTable, TablePart
from tests.support.ranks import start_ranks
from tests.support.shared import shared

ROWS = {"tables.shared.weights.4": (1000, 4), "optimiser.table.0.sum": (1000,), "average.seen.16": (300,)}


def facts_of(step: int) -> dict[str, Any]:
    """The facts of a state."""
    return {"progress": {"step": step, "best": 0.1 + 0.2}, "name": "größe"}


def whole_tensors() -> dict[str, Tensor]:
    """All tensors of the state, whole."""
    generator = torch.Generator().manual_seed(3)
    tables = {name: torch.randn(shape, generator=generator) for name, shape in ROWS.items()}
    tables["average.seen.16"] = torch.arange(300, dtype=torch.int32)
    layers = {
        "model.weight": torch.randn(3, 5, generator=generator).t(),
        "model.scale": torch.tensor(0.5),
        "model.half": torch.tensor([0.1, float("nan")], dtype=torch.bfloat16),
        "model.none": torch.zeros(0, 4),
        "optimiser.rank.0.step": torch.tensor(2**40),
    }
    return tables | layers


def state_of(rank: int, ranks: int, facts: dict[str, Any]) -> Checkpoint:
    """The state as one of some ranks holds it, the rows that stand for none filled with what must not leak."""
    tensors = whole_tensors()
    tables = {}
    for name in ROWS:
        table = tensors.pop(name)
        shards = RowShards(len(table), ranks)
        part = table
        if ranks > 1:
            rows = torch.from_numpy(shards.rows_of(rank))
            part = torch.full((len(rows), *table.shape[1:]), 77).to(table.dtype)
            part[rows < len(table)] = table[rows[rows < len(table)]]
        tables[name] = SplitTable(len(table), (TablePart(shards.buckets(rank), part),))
    return Checkpoint(tensors, facts, tables)


def spoil(checkpoint: Checkpoint) -> None:
    """Change all tensors, as the next step would."""
    parts = [table.parts[0].values for table in checkpoint.tables.values()]
    for tensor in [*checkpoint.tensors.values(), *parts]:
        tensor.fill_(55)


def write_all(folder: Path, ranks: Ranks, last: str) -> None:
    """Write the states on one of the ranks."""
    writer = CheckpointWriter(ranks)
    writer.write(CheckpointLocation(folder, "sharded"), state_of(ranks.rank, ranks.world, facts_of(7)))
    writer.write(CheckpointLocation(folder, "replicated"), state_of(0, 1, facts_of(7)))
    changed = state_of(ranks.rank, ranks.world, facts_of(7))
    writer.write(CheckpointLocation(folder, "changed"), changed)
    spoil(changed)
    writer.wait()
    if ranks.first:
        (folder / "sharded.safetensors").write_bytes(b"of one process, earlier")
    writer.write(CheckpointLocation(folder, "sharded"), state_of(ranks.rank, ranks.world, facts_of(8)))
    writer.wait()
    if last == "killed" and ranks.first:
        ShardManifest.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    elif last == "full" and ranks.rank == ranks.world - 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    writer.write(CheckpointLocation(folder, "sharded"), state_of(ranks.rank, ranks.world, facts_of(9)))
    writer.wait()


def written_states() -> Path:
    """A folder with what `one` process, `two` ranks and `four` ranks wrote, and how these ended in `ends.json`."""
    return shared("checkpoints", _write_states)


def _write_states(folder: Path) -> None:
    (folder / "one").mkdir()
    CheckpointWriter().write(CheckpointLocation(folder / "one", "sharded"), state_of(0, 1, facts_of(8)))
    ends = {}
    for name, world, last in (("two", 2, "killed"), ("four", 4, "full")):
        (folder / name).mkdir()
        ends[name] = start_ranks("tests.support.checkpoint_states", world, str(folder / name), last)
    (folder / "ends.json").write_text(json.dumps(ends))


def main(folder: Path, last: str) -> None:
    """Write, and print a user's error as the command line does."""
    with join_ranks(60) as ranks:
        write_all(folder, ranks, last)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except CorankError as error:
        sys.exit(f"{type(error).__name__}: {error}")
