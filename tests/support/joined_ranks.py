"""Ranks of a launch as forked processes, which start at once; each writes to a file how it ended."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed import (  # type: ignore[attr-defined]
    TCPStore,
    distributed_c10d,
)

from corank.batches.ahead import move_batches, pair_batches
from corank.core.errors import ConfigError, CorankError, DataError
from corank.distributed import ranks as collective_log
from corank.distributed.process_group import join_ranks
from corank.distributed.ranks import Ranks
from corank.evaluation.predict import predict_by_ranks
from corank.training.config.config_file import read
from corank.training.packed_data import open_packed
from corank.training.run import Run
from corank.training.trainer import Trainer
from tests.support import kills
from tests.support.marked_device import marked_device
from tests.support.waiting import PATIENCE

TIMEOUT = 40.0
"""Seconds that a rank waits for the others; of those that have posted no error a quarter."""
SOON = 5.0
"""Seconds after which the first rank gives up that waits for one that hangs; the second waits twice as long."""
Part = Callable[[Ranks, Path], Any]


class JoinedRanks:
    """W processes that run one part together, with a store as an elastic agent keeps it."""

    def __init__(
        self, world: int, part: Part, folder: Path, restarts: int = 0, earlier: "JoinedRanks | None" = None
    ) -> None:
        """`earlier`: those whose launch these are a restart of."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store: Any = (
            earlier.store if earlier else TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        )
        self.processes: list[ForkServerProcess] = [
            kills.start(_run, part, folder, rank, world, self.store.port, restarts) for rank in range(world)
        ]

    def results(self) -> list[tuple[str, Any]]:
        """How each rank ended: `value` and what the part returned, or an error's type and message, or `killed`."""
        for process in self.processes:
            process.join(PATIENCE)
            process.kill()
        files = [self.folder / f"{rank}.json" for rank in range(len(self.processes))]
        outcomes = [json.loads(file.read_text()) if file.exists() else ("killed", "") for file in files]
        return [(kind, text) for kind, text in outcomes]


def _run(part: Part, folder: Path, rank: int, world: int, port: int, restarts: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    torch.set_num_threads(1)
    try:
        with join_ranks(TIMEOUT) as ranks:
            ranks.log.step = 7
            value = "value", part(ranks, folder)
    except CorankError as error:
        value = type(error).__name__, str(error)
    except KeyError as error:
        value = "KeyError", str(error)
    (folder / f"{rank}.json").write_text(json.dumps(value))


def exchange_all(ranks: Ranks, folder: Path) -> Any:
    """Every exchange except those of tensors."""

    def work() -> list[float | None]:
        time.sleep(1.5 * ranks.log._timeout)
        return [1.5, None]

    ranks.log._timeout = TIMEOUT / 4
    slow = ranks.first_does(work, "longer than the time-out")
    gathered = ranks.gather_first(b"x" * ranks.rank, "bytes")
    return [
        slow,
        ranks.share({"rank": ranks.rank, "ö": 0.1}, "value"),
        [len(part) for part in gathered],
        [len(part) for part in ranks.gather(torch.ones(ranks.rank, 2), "rows")],
        ranks.sent["bytes"],
    ]


def predict_split(ranks: Ranks, folder: Path) -> Any:
    """The predictions of a finished run on a split, saved by the first rank."""
    run = Run.open(Path((folder / "run").read_text()))
    packed = run.packed()
    predictions = predict_by_ranks(run.model(packed)[0], packed, "valid", ranks, requests=100)
    if predictions is not None:
        columns: dict[str, Any] = {
            "start": predictions.requests.start,
            "weight": predictions.weight,
            **predictions.labels,
        }
        columns |= {f"{s}.{label}": z for s, by in predictions.logits.items() for label, z in by.items()}
        np.savez(folder / "found.npz", **columns)
    return predictions is not None


def train_an_epoch(ranks: Ranks, folder: Path) -> list[float]:
    """The losses of an epoch's steps, on the marked device if the folder says so."""
    asked = json.loads((folder / "asked.json").read_text())
    file = Path(asked["config"])
    config, base = read(file, asked["overrides"]), file.parent
    with marked_device() if asked["marked"] else nullcontext():
        trainer = Trainer(Run(folder / "run", config, base), open_packed(config, base), ranks)
        reader = trainer.reader
        moved = move_batches(
            reader.read_shuffled(0, 0), trainer.device, trainer.prepare, ahead=not reader.gathers
        )
        return [
            mean.item()
            for batch, following in pair_batches(moved, ahead=True)
            for mean in trainer.step(batch, following).values()
        ]


def give_up_soon(ranks: Ranks) -> None:
    """Once all ranks have met, let the lower ones give up first, and then hear the others for as long as before."""
    ranks.wait("start")
    ranks.log._timeout, collective_log.LAST_WORD = SOON * (1 + ranks.rank), TIMEOUT / 4
    distributed_c10d._set_pg_timeout(timedelta(seconds=ranks.log._timeout))


def stop_last(ranks: Ranks, folder: Path) -> None:
    """The last rank hangs."""
    give_up_soon(ranks)
    if ranks.rank == ranks.world - 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.sum(torch.ones(3), "dense gradients")


def kill_last(ranks: Ranks, folder: Path) -> None:
    """The last rank dies."""
    if ranks.rank == ranks.world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.sum(torch.ones(3), "dense gradients")


def stop_first(ranks: Ranks, folder: Path) -> None:
    """The first rank hangs while the others wait for what it does."""
    give_up_soon(ranks)
    ranks.first_does(lambda: os.kill(os.getpid(), signal.SIGSTOP), "packing")


def refuse_on_middle(ranks: Ranks, folder: Path) -> None:
    """A rank has a mistake of the user."""
    if ranks.rank == 1:
        raise ConfigError("no such key")
    ranks.sum(torch.ones(3), "dense gradients")


def refuse_on_all(ranks: Ranks, folder: Path) -> None:
    """All ranks have the same mistake, at any distance."""
    collective_log.LAST_WORD = 2 * PATIENCE
    raise ConfigError("no such key")


def refuse_on_first(ranks: Ranks, folder: Path) -> None:
    """The first rank has a mistake of the user where it works alone."""

    def refuse() -> None:
        raise DataError("no data")

    ranks.first_does(refuse, "packing")


def break_middle(ranks: Ranks, folder: Path) -> None:
    """A rank has a bug."""
    if ranks.rank == 1:
        raise KeyError("bug")
    ranks.sum(torch.ones(3), "dense gradients")


def do_nothing(ranks: Ranks, folder: Path) -> None:
    """Join, and leave."""
