"""States of a training made by hand, of which each rank holds its rows; and the ranks that write them.

Some ranks first continue trainings. Then they write the states as `sharded`, `replicated` and `changed`, and
`sharded` a second time; and a third time, at which one of the ranks is killed or finds its disk full.
"""

import json
import os
import resource
import shutil
import signal
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corank.core.artifact import ArtifactWriter
from corank.core.errors import CorankError
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import RowShards
from corank.training.checkpoints.checkpoint import Checkpoint, SplitTable, TablePart
from corank.training.checkpoints.checkpoint_files import CheckpointWriter, save
from corank.training.config.config_file import read
from corank.training.run import Run
from corank.training.trainer import Trainer
from tests.support.ranks import fork_ranks
from tests.support.shared import shared, simulated_world

ROWS = {"tables.shared.weights.4": (1000, 4), "optimiser.table.0.sum": (1000,), "average.seen.16": (300,)}


TRAININGS = {
    "sharded": ["train.tables=sharded", "train.average=0.9"],
    "replicated": ["train.tables=replicated", "train.table.optimiser=lazy_adam", "train.table.lr=0.01"],
}
"""Overrides of the trainings that continue from one number of ranks to another."""
STEPS = 3
"""Steps at each number of ranks."""


def facts_of(step: int) -> dict[str, Any]:
    """The facts of a state."""
    figures = [{"auc": None, "logloss": float("inf")}]
    return {"progress": {"step": step, "best": 0.1 + 0.2}, "figures": figures, "name": "größe"}


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
        "model.flags": torch.tensor([True, False]),
        "model.bytes": torch.tensor([[0, 255]], dtype=torch.uint8),
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
    writer.write(folder / "sharded", state_of(ranks.rank, ranks.world, facts_of(7)))
    writer.write(folder / "replicated", state_of(0, 1, facts_of(7)))
    changed = state_of(ranks.rank, ranks.world, facts_of(7))
    writer.write(folder / "changed", changed)
    spoil(changed)
    writer.wait()
    writer.write(folder / "sharded", state_of(ranks.rank, ranks.world, facts_of(8)))
    writer.wait()
    if last == "killed" and ranks.first:
        ArtifactWriter._switch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
    elif last == "full" and ranks.rank == ranks.world - 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    writer.write(folder / "sharded", state_of(ranks.rank, ranks.world, facts_of(9)))
    writer.wait()


def go_on(run: Run, ranks: Ranks) -> None:
    """Load the latest state of a run, write it again as `loaded`, take some steps and save."""
    trainer = Trainer(run, run.packed(), ranks)
    if run.has_state:
        trainer.load()
        trainer.writer.write(run.folder / "loaded", trainer.state({}))
    for batch in islice(trainer.reader.read_shuffled(0, trainer.progress.batch), STEPS):
        trainer.step(batch)
        trainer.progress.batch += 1
    trainer.save()
    trainer.writer.wait()


def written_states() -> Path:
    """A folder with what `one` process, `two` ranks and `four` ranks wrote, and how these ended in `ends.json`.

    In `runs` are trainings, by how many ranks took their latest steps; `unbroken` took all steps on one.
    """
    return shared("checkpoints", _write_states)


def _write_states(folder: Path) -> None:
    (folder / "one").mkdir()
    save(folder / "one" / "sharded", state_of(0, 1, facts_of(8)))
    _train_alone(folder / "runs")
    ends = {}
    for before, name, world, last in (("one", "two", 2, "killed"), ("two", "four", 4, "full")):
        (folder / name).mkdir()
        runs = folder / "runs" / name
        shutil.copytree(folder / "runs" / before, runs)
        ends[name] = fork_ranks(_go_on_and_write, world, folder / name, last, runs)
        assert (folder / name / "sharded").is_dir(), ends[name]
    (folder / "ends.json").write_text(json.dumps(ends))


def _train_alone(runs: Path) -> None:
    config = simulated_world() / "config.yaml"
    for name, overrides in TRAININGS.items():
        # each rank draws its own rows of feature_dropout
        fixed = ["train.requests=64", "train.precision=fp32", "stages.0.feature_dropout={}"]
        settings = read(config, [*fixed, *overrides])
        for times, parent in ((1, "one"), (4, "unbroken")):
            run = Run.create(runs / parent / name, settings, config.parent)
            for _ in range(times):
                go_on(run, Ranks())


def _go_on_and_write(folder: Path, last: str, runs: Path) -> None:
    torch.set_num_threads(1)
    try:
        with join_ranks(60) as ranks:
            for run in sorted(runs.iterdir()):
                go_on(Run.open(run), ranks)
            write_all(folder, ranks, last)
    except CorankError as error:
        sys.exit(f"{type(error).__name__}: {error}")
