"""Training and export killed with SIGKILL at random moments after their first write, and what is left on disk.

After a killed training every checkpoint loads or is absent, and `--resume` ends with the weights of an uninterrupted
run, bit by bit. After a killed export the bundle is the old one or the new one: it opens and ranks as that model does.
Half of the tries are trainings, half exports. `killed` counts the killed processes;
the others had just ended.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import corank
from benchmarks import harness
from corank.analysis.logged_request import logged_request
from corank.core.artifact import is_content
from corank.core.errors import BundleError, CheckpointError
from corank.datasets.feed.simulate import simulate_world
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import exists
from corank.training.run import Run

PROGRAM = [sys.executable, "-c", "from corank.cli.main import main; main()"]
SETTINGS = (
    "stages.0.query=[32, 16]",
    "stages.0.item=[32, 16]",
    "stages.0.dropout=0.1",
    "stages.1.hidden=[32, 16]",
    "stages.1.dropout=0.1",
    "train.requests=32",
    "train.epochs=4",
    "train.average=0.99",
    "train.checkpoint_every=5",
)
Began = Callable[[], bool]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    # one thread: a sum over as many threads in the same order has the same bits
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    said = process.communicate()[1].decode()
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit {process.returncode}: {said}")


def wait(process: subprocess.Popen[bytes], began: Began) -> None:
    """Until the process has begun to write, or has ended."""
    while process.poll() is None and not began():
        time.sleep(0.002)


def writing_seconds(process: subprocess.Popen[bytes], began: Began) -> float:
    """From the first write to the end."""
    wait(process, began)
    first = time.perf_counter()
    finish(process)
    return time.perf_counter() - first


def kill(process: subprocess.Popen[bytes], began: Began, after: float) -> bool:
    """Kill the process so many seconds after its first write; False if it had ended by then."""
    wait(process, began)
    time.sleep(after)
    process.kill()
    process.communicate()
    return process.returncode < 0


def train(config: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    settings = [f"--set={setting}" for setting in SETTINGS]
    return start("train", config, "--run", folder, *settings, *options)


@dataclass(frozen=True)
class Unbroken:
    """A training that nothing disturbed."""

    config: Path
    run: Run
    seconds: float
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, config: Path, folder: Path, *options: str) -> "Unbroken":
        seconds = writing_seconds(train(config, folder, *options), (folder / "run.json").exists)
        return cls(config, Run.open(folder), seconds, load(folder / "model").tensors)


def killed_training(unbroken: Unbroken, folder: Path, rng: random.Random) -> tuple[bool, list[str]]:
    """Whether the kill came in time, and the faults after it."""
    after = rng.uniform(0, unbroken.seconds)
    cut = kill(train(unbroken.config, folder), (folder / "run.json").exists, after)
    return cut, [*wrong_training(unbroken, folder)]


def wrong_training(unbroken: Unbroken, folder: Path) -> Iterator[str]:
    for name in ("latest", "best", "model"):
        try:
            if exists(folder / name):
                load(folder / name)
        except CheckpointError as error:
            yield str(error)
    try:
        finish(train(unbroken.config, folder, "--resume"))
    except RuntimeError as error:
        yield str(error)
        return
    tensors = load(folder / "model").tensors
    if tensors.keys() != unbroken.tensors.keys():
        yield "the resumed model has other tensors"
    for name in tensors.keys() & unbroken.tensors.keys():
        if not torch.equal(tensors[name], unbroken.tensors[name]):
            yield f"{name} differs from the unbroken run's"


def contents(bundle: Path) -> set[str]:
    """The content folders of a bundle: the newest, the one before it, and what a killed export left."""
    return {path.name for path in bundle.glob("*/") if is_content(path.name)}


def exporting(run: Run, bundle: Path) -> tuple[subprocess.Popen[bytes], Began]:
    """Start an export, and return what tells whether it has begun to write."""
    before = contents(bundle)
    return start("export", run.folder, bundle), lambda: contents(bundle) != before


def answered(bundle: Path, request: Request) -> tuple[str, dict[str, Any]]:
    """The bundle's model version and its answer, which tells the model's scores, without what counts exports."""
    answer = Funnel.open(bundle).rank(request)
    del answer["items_seq"], answer["items_id"]
    return answer["model_version"], answer


class Exports:
    """Exports of two models, in turn, over one another's bundle."""

    def __init__(self, runs: tuple[Run, Run], folder: Path) -> None:
        self.runs, self.bundle = runs, folder / "bundle"
        self.request = Request.parse(logged_request(runs[0], "test", 0))
        self.answers: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0
        for n, run in enumerate(runs):
            clean = folder / f"clean{n}"
            self.seconds = writing_seconds(*exporting(run, clean))
            version, self.answers[version] = answered(clean, self.request)
        self.versions = list(self.answers)

    def killed(self, turn: int, rng: random.Random) -> tuple[bool, list[str]]:
        """Whether the kill came in time, and the faults after it. In turn 0 there is no bundle yet."""
        run = self.runs[turn % 2]
        cut = kill(*exporting(run, self.bundle), rng.uniform(0, self.seconds))
        complaints: list[str] = []
        if turn or (self.bundle / "manifest.json").exists():
            complaints += self._wrong(set(self.versions))
        corank.export(run.folder, self.bundle)
        complaints += self._wrong({self.versions[turn % 2]})
        if len(contents(self.bundle)) > 2 or any(self.bundle.glob(".partial-*")):
            complaints.append("half-written files were left behind for good")
        return cut, complaints

    def _wrong(self, versions: set[str]) -> Iterator[str]:
        try:
            version, answer = answered(self.bundle, self.request)
        except BundleError as error:
            yield str(error)
            return
        if version not in versions:
            yield f"the bundle is of model {version}, not of {' or '.join(sorted(versions))}"
        elif answer != self.answers[version]:
            yield f"the bundle says to be of model {version}, and answers otherwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    killed = wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_world(folder / "world", requests=1500, candidates=30, users=50, items=150)
        config = folder / "world" / "config.yaml"
        finish(start("pack", config))
        unbroken = Unbroken.of(config, folder / "unbroken")
        other = Unbroken.of(config, folder / "other", "--set=train.seed=1")
        exports = Exports((unbroken.run, other.run), folder)
        for n in range(options.tries):
            if n % 2:
                cut, complaints = exports.killed(n // 2, rng)
            else:
                cut, complaints = killed_training(unbroken, folder / f"run{n}", rng)
            killed += cut
            wrong += bool(complaints)
            for complaint in complaints:
                sys.stderr.write(f"try {n}: {complaint}\n")
    figures = {"tries": options.tries, "killed": killed, "wrong": wrong}
    harness.report("crash", figures, {"wrong": ("==", 0)}, options.json)


if __name__ == "__main__":
    main()
