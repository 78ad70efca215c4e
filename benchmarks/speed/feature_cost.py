"""Cost of each kind of feature, and of each option of a ranker, in a training step and online.

The world is simulated, with 200 candidates a request; `plain` has the columns of users, contexts and items. Every arm
adds one feature or one option and takes turns with `plain`, so that a machine that slows down slows both. `train` is
the additional time of a step of 128 requests with all their candidates, reading included, in percent of the plain step;
`times` is a step's time over that of the arm that it is a variant of.
`online` is the additional time of a request through the exported bundle, in microseconds; 50 of the 200 candidates
reach the ranker. Both are processor times of one thread, medians over rounds with 95 % intervals; `plain again` is
`plain` once more, and shows what is noise.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import harness
from benchmarks.speed.feature_cost_arms import (
    BESIDE,
    FEATURES,
    MOST,
    PLAIN,
    TIMES,
    add_lists,
    add_vectors,
    arms,
)
from corank.analysis.logged_request import logged_request
from corank.batches.reader import Reader
from corank.core.calibration import Platt
from corank.data.packed.dataset import PackedDataset
from corank.datasets.feed.simulate import simulate_world
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.config import Config
from corank.training.config.config_file import read
from corank.training.device import device, keep_freed_memory, precision
from corank.training.export import export_bundle
from corank.training.model_building import build_model
from corank.training.optimisers import optimisers
from corank.training.packed_data import pack_config
from corank.training.run import Run

REQUESTS = 128


def stepper(config: Config, packed: PackedDataset) -> Iterator[None]:
    """Each `next` reads a batch and trains one step on all its candidates."""
    torch.manual_seed(0)
    model = build_model(config, packed).to(device())
    model.dtype = precision("auto", device())
    steps = optimisers(model, config.train.table, config.train.stages)
    total = config.total
    reader = Reader(packed, "train", REQUESTS, attended=model.attended, sees_ranks=model.sees_ranks)
    for epoch in range(10**6):
        for number, batch in enumerate(reader.read_shuffled(epoch)):
            loss, _ = total(model.outputs(batch.to(device()), total.reads()), batch, number)
            for optimiser in steps.values():
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for optimiser in steps.values():
                optimiser.step()
            yield


class Arm:
    """A packed config, its training and its funnel."""

    def __init__(self, config: Config, base: Path) -> None:
        self.packed = pack_config(config, base)
        self.steps = stepper(config, self.packed)
        model = build_model(config, self.packed)
        calibrators = {stage.name: {label: Platt() for label in stage.labels} for stage in config.stages}
        self.funnel = Funnel(
            export_bundle(base / "bundles" / config.name, config, self.packed, model, calibrators)
        )
        run = Run(base / "none", config, base)
        self.requests = [Request.parse(logged_request(run, "test", n)) for n in range(0, 80, 10)]

    def step(self) -> None:
        next(self.steps)

    def rank(self) -> None:
        for request in self.requests:
            self.funnel.rank(msgspec.structs.replace(request, trace=False))


def seconds(run: Callable[[], None]) -> float:
    """Processor time of the process: other processes make it longer only by what they evict from caches."""
    began = time.process_time()
    run()
    return time.process_time() - began


def in_turn(one: Callable[[], None], other: Callable[[], None], rounds: int) -> NDArray[np.float64]:
    """Seconds of both in each round; who goes first changes from round to round: (2, rounds)."""
    for _ in range(3):
        one()
        other()
    times = np.empty((2, rounds))
    for n in range(rounds):
        for which in (0, 1) if n % 2 else (1, 0):
            times[which, n] = seconds((one, other)[which])
    return times


def with_interval(name: str, rounds: NDArray[np.float64]) -> dict[str, float]:
    """The median over rounds, and its 95 % interval by order statistics: (rounds,)."""
    ordered = np.sort(rounds)
    below = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    ends = {f"{name}.low": ordered[below], f"{name}.high": ordered[-1 - below]}
    return {name: float(np.median(ordered))} | {end: float(value) for end, value in ends.items()}


def compared(arm: Arm, base: Arm, rounds: int) -> dict[str, float]:
    """Medians over rounds in which both take turns."""
    ours, plain_step = in_turn(arm.step, base.step, rounds)
    rank, plain_rank = in_turn(arm.rank, base.rank, rounds)
    return with_interval("train_percent", (ours / plain_step - 1) * 100) | with_interval(
        "online_us", (rank - plain_rank) / len(base.requests) * 1e6
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM", help="which, by their names in the output; all if not given"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Console(stderr=True).print
    keep_freed_memory()
    torch.set_num_threads(1)
    figures: dict[str, harness.Figure] = {"dtype": str(precision("auto", device()))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_world(folder, requests=4_000, candidates=200, overwrite=True)
        add_lists(folder / "log")
        add_vectors(folder / "items.parquet")
        configs = arms(read(folder / "config.yaml"))
        plain_config = configs.pop(PLAIN)
        if unknown := set(arguments.arms or ()) - configs.keys():
            parser.error(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(configs)}")
        base = Arm(plain_config, folder)
        base.rank()
        figures["plain.step_ms"] = float(
            np.median([seconds(base.step) for _ in range(arguments.rounds)]) * 1e3
        )
        ranked = [seconds(base.rank) / len(base.requests) for _ in range(arguments.rounds)]
        figures["plain.online_us"] = float(np.median(ranked) * 1e6)
        others: dict[str, Arm] = {}
        for name in arguments.arms or configs:
            arm = Arm(configs[name], folder)
            costs = compared(arm, base, arguments.rounds)
            if (other := others.get(BESIDE.get(name, ""))) is not None:
                costs |= with_interval("times", np.divide(*in_turn(arm.step, other.step, arguments.rounds)))
            if name in BESIDE.values():
                others[name] = arm
            say(f"{name}: " + "  ".join(f"{key} {value:.2f}" for key, value in costs.items()), soft_wrap=True)
            figures |= {f"{name}.{key}": value for key, value in costs.items()}
    aims = {f"{name}.train_percent": ("<=", most) for name, most in MOST.items()}
    aims |= {f"{name}.times": ("<=", TIMES) for name in BESIDE if name in FEATURES}
    aims = {key: aim for key, aim in aims.items() if key in figures}
    harness.report("feature_cost", figures, aims, arguments.json)


if __name__ == "__main__":
    main()
