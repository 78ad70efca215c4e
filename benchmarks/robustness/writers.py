"""Two processes each of export, refresh, publish, upsert, pack, train and prune on one target, killed at random.

Real commands in real processes on one bundle, store, run and folder of packed data. In every round four commands are
drawn, each is started twice at random moments, and some are killed with SIGKILL. Meanwhile a reader opens the bundle
and the packed data, and every state of the bundle is noted. Figures: `rounds`; `commands`; `killed` processes;
`refused` ones; `looks` of the reader; `broken`, rounds in which a target could not be used; `lost`, rounds in which an
acknowledged change was not there, or a change came from nowhere; `unnamed`, refusals that do not say who holds the
target or what came between.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import corank
from benchmarks import harness
from benchmarks.robustness.writers_witness import BundleWatch, WritersWitness
from benchmarks.robustness.writers_work import COMMANDS, CONTEXT, TRAINED, Job, Targets, finish_run
from corank.bundle.bundle import Bundle
from corank.core.errors import CorankError
from corank.data.dataset import PackedDataset
from tests.support.bundle_versions import Silent
from tests.support.redis_server import redis_server

AIMS = {"broken": ("==", 0.0), "lost": ("==", 0.0), "unnamed": ("==", 0.0)}
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
        reference, _ = corank.train(
            targets.folder / "world" / "config.yaml", Silent(), settings, folder=targets.folder / "reference"
        )
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
        """What the reader said."""
        *complaints, looks = path.read_text(encoding="utf-8").splitlines()
        self.counts["looks"] += int(looks)
        path.unlink()
        path.with_name(f"{path.name}.enough").unlink()
        return complaints

    def _count(self, n: int, figure: str, complaints: Iterable[str]) -> None:
        found = list(complaints)
        self.counts[figure] += bool(found)
        _tell(n, found)


def look(targets: Targets, out: Path) -> None:
    """Open the bundle and the packed data again and again, until there is a file `enough`."""
    looks = 0
    with out.open("w", encoding="utf-8") as file:
        while not out.with_name(f"{out.name}.enough").exists():
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redis", action="store_true", help="a store in Redis instead of LMDB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.redis:
            with redis_server(folder) as server:
                figures = run_writers(folder, server.url, options.rounds, options.seed)
        else:
            figures = run_writers(folder, f"lmdb:{folder / 'store'}", options.rounds, options.seed)
    harness.report("writers", figures, AIMS, options.json)


if __name__ == "__main__":
    main()
