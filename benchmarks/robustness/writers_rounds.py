"""Rounds of commands that write the same targets at once, some of which are killed. See writers_work.py."""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import corank
from benchmarks.robustness.writers_witness import BundleWatch, WritersWitness
from benchmarks.robustness.writers_work import COMMANDS, TRAINED, Job, Targets, finish_run
from corank.bundle.bundle import Bundle
from corank.core.errors import CorankError
from corank.data.packed.dataset import PackedDataset
from tests.support.kills import CONTEXT

DRAWN = 4
"""Commands of a round."""
SPREAD = 1.0
"""Seconds within which the commands of a round start, and within which one is killed."""
KILLED = 0.3
"""Share of the processes that are killed."""
RESUMED_EVERY = 10
"""Rounds after which the run is resumed to its end."""


@dataclass
class Writers:
    """Rounds of commands on one set of targets."""

    targets: Targets
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def run(self, rounds: int) -> dict[str, int]:
        """Run so many rounds. Returns the figures."""
        targets = self.targets
        settings = [setting.removeprefix("--set=") for setting in TRAINED]
        reference = corank.train(
            targets.folder / "world" / "config.yaml", settings, folder=targets.folder / "reference"
        ).run
        witness = WritersWitness(targets, BundleWatch(targets))
        witness.watch.look()
        for n in range(rounds):
            looks = CONTEXT.Process(target=look, args=(targets, targets.folder / f"looks-{n}"))
            looks.start()
            jobs = self._round(witness.watch)
            (targets.folder / f"looks-{n}.enough").touch()
            looks.join()
            self._count(n, "broken", [*witness.broken(), *self._looks(targets.folder / f"looks-{n}")])
            self._count(n, "lost", witness.lost(jobs))
            self.counts["unnamed"] += len(unnamed := list(witness.unnamed(jobs)))
            _tell(n, unnamed)
            if n % RESUMED_EVERY == RESUMED_EVERY - 1 or n == rounds - 1:
                self._count(n, "broken", witness.wrong_run(reference, finish_run(targets)))
            for job in jobs:
                job.out.unlink(missing_ok=True)
        for message, times in sorted(witness.refusals.items()):
            sys.stderr.write(f"{times} times {message}\n")
        names = ("commands", "killed", "refused", "looks", "broken", "lost", "unnamed")
        return {"rounds": rounds} | {name: self.counts[name] for name in names}

    def _round(self, watch: BundleWatch) -> list[Job]:
        """Start the commands and kill some; the bundle is watched until all have ended."""
        drawn = [(command, variant) for command in self.rng.sample(COMMANDS, DRAWN) for variant in (0, 1)]
        now = time.monotonic()
        starts = sorted((now + self.rng.uniform(0, SPREAD), one) for one in drawn)
        jobs: list[Job] = []
        kills: list[tuple[float, Job]] = []
        while starts or any(job.process.is_alive() for job in jobs):
            now = time.monotonic()
            while starts and starts[0][0] <= now:
                _, (command, variant) = starts.pop(0)
                self.number += 1
                jobs.append(self.targets.start(command, variant, self.number))
                if self.rng.random() < KILLED:
                    kills.append((now + self.rng.uniform(0, SPREAD), jobs[-1]))
            for moment, job in kills:
                if moment <= now and job.process.is_alive():
                    job.process.kill()
            watch.look()
            time.sleep(0.002)
        watch.look()
        self.counts["commands"] += len(jobs)
        self.counts["killed"] += sum(job.killed for job in jobs)
        self.counts["refused"] += sum(not job.killed and not job.acknowledged for job in jobs)
        return jobs

    def _looks(self, path: Path) -> list[str]:
        """The reader's output."""
        *complaints, looks = path.read_text(encoding="utf-8").splitlines()
        self.counts["looks"] += int(looks)
        path.unlink()
        path.with_name(f"{path.name}.enough").unlink()
        return complaints

    def _count(self, n: int, figure: str, complaints: Iterable[str]) -> None:
        lines = list(complaints)
        self.counts[figure] += bool(lines)
        _tell(n, lines)


def look(targets: Targets, out: Path) -> None:
    """Open the bundle and the packed data again and again, until there is a file `enough`."""
    looks = 0
    with out.open("w", encoding="utf-8") as file:
        enough = out.with_name(f"{out.name}.enough")
        while not looks or not enough.exists():
            try:
                Bundle.open(targets.bundle)
                PackedDataset.open(targets.packed)
            except (CorankError, OSError) as error:
                file.write(f"a reader: {error!r}\n")
            looks += 1
            time.sleep(0.02)
        file.write(f"{looks}\n")


def _tell(n: int, complaints: Iterable[str]) -> None:
    for complaint in complaints:
        sys.stderr.write(f"round {n}: {complaint}\n")


def run_writers(folder: Path, store: str, rounds: int, seed: int) -> dict[str, int]:
    """Make the targets in a folder and run so many rounds. Returns the figures."""
    return Writers(Targets.make(folder, store), random.Random(seed)).run(rounds)
