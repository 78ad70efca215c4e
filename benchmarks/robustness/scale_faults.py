"""Trainings by several ranks and packings by several workers, killed or stopped at random moments.

A rank is killed by SIGKILL, or stopped by SIGSTOP so that it hangs until the others miss it; the launcher then starts
all ranks again. Or the launcher itself is killed, which ends its ranks, and the training goes on by --resume. The end
must be that of an unbroken training: weights, calibrators and figures, bit for bit. `training.struck` counts the
tries whose fault came before the end. Half of the kills are of workers of packings (`pack_faults`).
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

import corank
from benchmarks import harness
from benchmarks.robustness.pack_faults import kill_packings
from corank.core.errors import CorankError
from corank.datasets.feed.simulate import simulate_world
from corank.training.run import Run

SETTINGS = (
    "stages.0.query=[32, 16]",
    "stages.0.item=[32, 16]",
    "stages.0.dropout=0.1",
    "stages.1.hidden=[32, 16]",
    "train.requests=32",
    "train.epochs=6",
    "train.average=0.99",
    "train.tables=sharded",
    "train.checkpoint_every=5",
)
Fault = Literal["rank", "launcher", "hang"]
TIMEOUT = 10
"""Seconds after which the ranks miss one that hangs."""
LONGEST = 300
"""Seconds after which a try counts as hanging."""


def start(config: Path, folder: Path, ranks: int, *more: str) -> subprocess.Popen[str]:
    """Start a training that continues after faults."""
    options = ["--workers", ranks, "--max-restarts", 3, "--timeout", TIMEOUT, "--run", folder]
    options += [f"--set={setting}" for setting in SETTINGS]
    return subprocess.Popen(
        [sys.executable, "-m", "corank", "train", str(config), *map(str, options), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end. Returns its faults, if any."""
    try:
        said = process.communicate(timeout=LONGEST)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"still ran after {LONGEST} s"
    return f"exit status {process.returncode}: {said}" if process.returncode else ""


def digest(folder: Path) -> str:
    """A hash of all that a finished run holds: weights, calibrators and figures."""
    run = Run.open(folder)
    packed = run.packed()
    facts = run.trained(packed).facts
    hasher = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(run.model(packed)[0].state_dict().items()):
        hasher.update(name.encode())
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Pace:
    """Seconds of an unbroken training."""

    starting: float
    """From the start of the ranks to the first checkpoint."""
    training: float
    """From then to the end."""


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks that a launcher has started, once there are some; none if it has ended."""
    while process.poll() is None:
        workers: list[psutil.Process] = psutil.Process(process.pid).children()
        if workers:
            return workers
        time.sleep(0.01)
    return []


def first_checkpoint(process: subprocess.Popen[str], folder: Path) -> float:
    """Wait for the first checkpoint or the end. Returns the time."""
    while process.poll() is None and not (folder / "latest" / "manifest.json").exists():
        time.sleep(0.01)
    return time.perf_counter()


def unbroken(config: Path, folder: Path, ranks: int) -> Pace:
    """Train without a fault."""
    process = start(config, folder, ranks)
    workers_of(process)
    began = time.perf_counter()
    begun = first_checkpoint(process, folder)
    if complaint := end(process):
        raise RuntimeError(complaint)
    return Pace(begun - began, time.perf_counter() - begun)


def strike(process: subprocess.Popen[str], folder: Path, fault: Fault, pace: Pace, early: bool) -> bool:
    """Kill or stop a rank, or kill the launcher, at a random moment; False if the training ended before."""
    workers_of(process)
    if not early:
        first_checkpoint(process, folder)
    time.sleep(random.uniform(0, pace.starting if early else 0.8 * pace.training))
    if (folder / "model" / "manifest.json").exists() or not (workers := workers_of(process)):
        return False
    try:
        victim = psutil.Process(process.pid) if fault == "launcher" else random.choice(workers)
        victim.send_signal(signal.SIGSTOP if fault == "hang" else signal.SIGKILL)
    except psutil.NoSuchProcess:  # it has just ended
        return False
    if fault == "launcher":
        process.communicate()
        psutil.wait_procs(workers, timeout=30)
    return True


def wrong(folder: Path, process: subprocess.Popen[str], expected: str) -> Iterator[str]:
    """Faults at the end of a struck training."""
    if complaint := end(process):
        yield complaint
        return
    try:
        if digest(folder) != expected:
            yield "it ended, but not as an unbroken training"
    except CorankError as error:
        yield str(error)


def train_struck(faults: Sequence[Fault], ranks: int) -> tuple[int, list[str]]:
    """Train once a fault. Returns how many faults came before the end, and the errors after them."""
    struck, complaints = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_world(folder / "world", requests=1500, candidates=30, users=50, items=150)
        config = folder / "world" / "config.yaml"
        corank.pack(config)
        pace = unbroken(config, folder / "unbroken", ranks)
        expected = digest(folder / "unbroken")
        for n, fault in enumerate(faults):
            run = folder / f"run{n}"
            process = start(config, run, ranks)
            hit = strike(process, run, fault, pace, early=n % 5 == 0)
            struck += hit
            if hit and fault == "launcher":
                process = start(config, run, ranks, "--resume")
            complaints += [
                f"training {n}, {fault}: {complaint}" for complaint in wrong(run, process, expected)
            ]
    return struck, complaints


def main() -> None:
    """Print tries and those that ended otherwise than unbroken ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--kills", type=int, default=20, help="of ranks and of workers of packings, half each"
    )
    parser.add_argument("--drivers", type=int, default=5, help="kills of the driver of a packing")
    parser.add_argument("--launchers", type=int, default=5, help="kills of the launcher of a training")
    parser.add_argument("--hangs", type=int, default=5, help="stops of a rank")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    counts: dict[Fault, int] = {
        "rank": -(-options.kills // 2),
        "launcher": options.launchers,
        "hang": options.hangs,
    }
    faults = [fault for fault, count in counts.items() for _ in range(count)]
    struck, complaints = train_struck(faults, options.ranks)
    packed = kill_packings(options.kills // 2, options.drivers, options.seed)
    complaints += packed.wrong
    for complaint in complaints:
        sys.stderr.write(f"{complaint}\n")
    figures = {
        "tries": len(faults) + packed.tries,
        "training.struck": struck,
        "packing.killed_workers": packed.killed_workers,
        "packing.killed_drivers": packed.killed_drivers,
        "wrong": len(complaints),
    }
    harness.report("scale_faults", figures, {"wrong": ("==", 0)}, options.json)


if __name__ == "__main__":
    main()
