"""Processes that train together and take steps on request of the benchmark; idle in between.

A process reads how many steps to take from its input, a line each, and answers with a line of JSON.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

import torch

from benchmarks.speed.train_throughput import DIM, PRERANK, RANK, TOTAL, packed_log
from corank.batches.ahead import move_batches, pair_batches
from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.features.input_layout import Layout
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from corank.models.tables.builder import TableBuilder
from corank.training.config.config import Config
from corank.training.config.settings import TableOptimiser, TrainSettings
from corank.training.device import keep_freed_memory
from corank.training.optimisers import table_optimiser
from corank.training.run import Run
from corank.training.trainer import Trainer

Mode = Literal["single", "ceiling", "sharded", "replicated", "torchrec", "memory"]
_PROGRAM = "from benchmarks.training_ranks import main; main()"


@dataclass(frozen=True)
class Steps:
    """Measurements of a group of processes over some steps, means over its ranks."""

    seconds: float
    candidates: int
    """Of all ranks."""
    sent: dict[str, float]
    """Bytes a candidate that a rank sent, by collective."""
    waited: dict[str, float]
    """Seconds a step, by collective; and `read`, those of reading."""
    collectives: float
    """Of a step."""
    distinct: float
    """Distinct table rows a candidate, of a rank's batch."""
    layer_weights: int
    """Weights outside the tables."""
    candidates_a_step: float
    """Of all ranks."""
    peak_rss_mib: float


class TrainingGroup:
    """Processes of one mode, started and warm."""

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        requests: int,
        commands: Sequence[Callable[[list[str]], list[str]]],
        threads: int,
        address: str = "127.0.0.1",
        path: Sequence[str] = (),
    ) -> None:
        """Start the processes and wait until they are warm.

        Args:
            mode: how they train.
            folder: of the log, made by `prepare`.
            requests: of a batch of all ranks together.
            commands: for each rank, what the command is run by, as in a network namespace.
            threads: of each process.
            address: by which the ranks reach the first.
            path: folders of further Python modules.
        """
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        world = len(commands)
        arguments = [sys.executable, "-c", _PROGRAM, mode, str(folder), str(requests)]
        self.mode = mode
        self._processes = [
            subprocess.Popen(
                command(arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ
                | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(world),
                    "LOCAL_WORLD_SIZE": str(world),
                    "MASTER_ADDR": address,
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": str(threads),
                    "PYTHONPATH": os.pathsep.join([*sys.path, *path]),
                },
            )
            for rank, command in enumerate(commands)
        ]
        self.step(3)

    def step(self, steps: int) -> Steps:
        """Take steps, all ranks at once."""
        for process in self._processes:
            _pipe(process.stdin).write(f"{steps}\n")
            _pipe(process.stdin).flush()
        answers = []
        for process in self._processes:
            line = _pipe(process.stdout).readline()
            if not line:
                raise SystemExit(f"a process of mode {self.mode} ended by {process.wait()}")
            answers.append(json.loads(line))
        world, candidates = len(answers), sum(part["candidates"] for part in answers)

        def mean(key: str, per: float) -> dict[str, float]:
            names = {name for part in answers for name in part[key]}
            return {name: sum(part[key].get(name, 0) for part in answers) / per for name in sorted(names)}

        return Steps(
            seconds=max(part["seconds"] for part in answers),
            candidates=candidates,
            sent=mean("sent", max(1, candidates)),
            waited=mean("waited", world * steps),
            collectives=answers[0]["collectives"] / steps,
            distinct=sum(part["distinct"] for part in answers) / max(1, candidates),
            layer_weights=answers[0]["layer_weights"],
            candidates_a_step=candidates / steps,
            peak_rss_mib=max(part["peak_rss_mib"] for part in answers),
        )

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            _pipe(process.stdin).close()
        for process in self._processes:
            process.wait(60)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def run_here(arguments: list[str]) -> list[str]:
    """The command as it is."""
    return arguments


def prepare(folder: Path, requests: int) -> None:
    """Write the log and the run's config."""
    packed = packed_log(folder, requests)
    config = Config(
        name="scale",
        data=packed.data,
        features=packed.schema.features,
        stages=[PRERANK, RANK],
        losses=list(TOTAL.losses),
    )
    Run.create(folder / "run", config, folder)


def main() -> None:
    """Run one process of a group."""
    mode, folder, requests = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_freed_memory()
    with join_ranks() as ranks:
        _hold(requests, ranks) if mode == "memory" else _serve(mode, folder, requests, ranks)


def _hold(rows: int, ranks: Ranks) -> None:
    """Hold this rank's part of one table and of its optimiser's state."""
    feature = IdFeature(side="item", kind="id", dim=DIM)
    layout = Layout(Schema({"item": feature}), {"item": rows})
    built = TableBuilder(ranks=ranks, sharded=True).build(layout, ["shared"])
    optimiser = table_optimiser(built["shared"].parameters(), TableOptimiser())
    for _ in sys.stdin:
        tensors = [*built["shared"].parameters(), *(s["sum"] for s in optimiser.state.values())]
        _answer(0.0, 0, Counter(), Counter(), 0, 0, sum(tensor.numel() for tensor in tensors))


def _trainer(mode: str, folder: Path, requests: int, ranks: Ranks) -> Trainer:
    packed, run = PackedDataset.open(folder / "packed"), Run.open(folder / "run")
    together = mode in ("sharded", "replicated", "torchrec")
    settings = TrainSettings(
        requests=requests if together else requests // ranks.world,
        tables="sharded" if mode == "sharded" else "replicated",
    )
    run = replace(run, config=run.config.model_copy(update={"train": settings}))
    trainer = Trainer(run, packed, ranks if together else Ranks())
    if mode == "torchrec":
        from benchmarks.torchrec_tables import use_torchrec

        use_torchrec(trainer)
    return trainer


def _serve(mode: str, folder: Path, requests: int, ranks: Ranks) -> None:
    trainer = _trainer(mode, folder, requests, ranks)
    moved = move_batches(_batches(trainer.reader), trainer.device, trainer.prepare)
    batches = pair_batches(moved, ahead=mode in ("sharded", "replicated"))
    layers = sum(w.numel() for network in trainer.model.networks.values() for w in network.parameters())
    for line in sys.stdin:
        ranks.sent.clear()
        ranks.log.waited.clear()
        candidates, distinct, reading, before = 0, 0, 0.0, ranks.log.number
        began = time.perf_counter()
        for _ in range(int(line)):
            asked = time.perf_counter()
            batch, following = next(batches)
            reading += time.perf_counter() - asked
            trainer.step(batch, following)
            candidates += len(batch)
            distinct += sum(len(lookup.touched) for lookup in batch.lookups.values())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        waited = ranks.log.waited + Counter({"read": reading})
        collectives = ranks.log.number - before
        _answer(time.perf_counter() - began, candidates, ranks.sent, waited, collectives, distinct, layers)


def _answer(
    seconds: float,
    candidates: int,
    sent: Counter[str],
    waited: Counter[str],
    collectives: int,
    distinct: int,
    weights: int,
) -> None:
    answer = {
        "seconds": seconds,
        "candidates": candidates,
        "sent": dict(sent),
        "waited": dict(waited),
        "collectives": collectives,
        "distinct": distinct,
        "layer_weights": weights,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _batches(reader: Reader) -> Iterator[Batch]:
    for epoch in range(10**6):
        yield from reader.read_shuffled(epoch)
