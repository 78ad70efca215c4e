"""`corank daily` killed with SIGKILL at random moments, and what is live in the store and left in the end.

After each kill the store's live version is whole and ranks a request, or none is live before the first. The next call
goes on. At the end of a round, when all periods are decided, models and bundles are those of an unbroken run. A round
has a few kills; half of them come at a random time, half before a random rename or removal of a file or folder, so that
the moments between two steps are met, too.

With `--join` the log is joined with events first: at the end its days are those of the unbroken run to the byte, so
that no row is lost and none is there twice. `--join-alone` kills `corank join`.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corank
from benchmarks import harness
from corank.core.errors import CorankError
from corank_continual.periods.history import DailyHistory
from tests.support import kills
from tests.support.daily_world import bundles_of, call_daily, live_model, request_of, write_daily_world

KILLS = 5
"""In a round, at most; then it is brought to its end."""


class Unbroken:
    """Result of an undisturbed run."""

    def __init__(self, settings: Path) -> None:
        began = time.monotonic()
        kills.run(call_daily, settings)
        self.seconds = time.monotonic() - began
        self.models = models_of(settings)
        self.bundles = bundles_of(settings)
        self.log = log_of(settings)
        self.request = request_of(settings)


def models_of(settings: Path) -> list[str | None]:
    return [record.model for record in DailyHistory(settings.parent / "daily").records]


def log_of(settings: Path) -> dict[str, bytes]:
    """The days of the log."""
    return {path.name: path.read_bytes() for path in sorted((settings.parent / "log").glob("*.parquet"))}


def kill_daily(settings: Path, unbroken: Unbroken, changes: int, rng: random.Random) -> int | None:
    """Start it, and kill it unless it has ended. Returns its exit status."""
    if rng.random() < 0.5:
        process = kills.start(call_daily, settings)
        time.sleep(rng.uniform(0, unbroken.seconds / 2))
        process.kill()
        process.join()
        return process.exitcode
    process = kills.start(kills.call_until, rng.randint(1, changes), call_daily, settings)
    process.join()
    return process.exitcode


def wrong_live(settings: Path, cache: Path, unbroken: Unbroken) -> Iterator[str]:
    """Faults of the live version, right after a kill."""
    try:
        live = live_model(settings, cache, unbroken.request)
        recorded = models_of(settings)
    except (CorankError, AssertionError) as error:
        yield f"after a kill: {error!r}"
        return
    known = len(recorded)
    if recorded != unbroken.models[:known]:
        yield f"after a kill: the history has models {recorded}, an unbroken one {unbroken.models}"
    # published and not yet in the history, or the last of the history
    if live not in [None if known == 0 else recorded[-1], *unbroken.models[known : known + 1]]:
        yield f"after a kill: {live} is live, and the history ends with {recorded[-1:]}"
    shutil.rmtree(cache, ignore_errors=True)


def wrong_end(settings: Path, unbroken: Unbroken) -> Iterator[str]:
    """Differences at the end, after a last call."""
    try:
        corank.daily(settings)
        if models_of(settings) != unbroken.models:
            yield f"models {models_of(settings)} instead of {unbroken.models}"
        bundles = bundles_of(settings)
    except (CorankError, AssertionError) as error:
        yield repr(error)
        return
    differ = [name for name in bundles | unbroken.bundles if bundles.get(name) != unbroken.bundles.get(name)]
    if differ:
        yield f"differ: {', '.join(differ[:5])}"
    if log_of(settings) != unbroken.log:
        yield "the log differs"


def join_world(folder: Path) -> None:
    """Join the log of a world, for processes of their own."""
    orders = f"{folder}/organic/*.parquet:order"
    corank.join(f"{folder}/raw/*.parquet", folder / "log", [f"later={orders}"])


def kill_joins(folder: Path, tries: int, days: int, seed: int) -> dict[str, Any]:
    """Kill `corank join` so many times, each before another change, and then let it end."""
    rng = random.Random(seed)
    whole, world = (
        write_daily_world(folder / name, days, 150 * days, joins=True) for name in ("whole", "world")
    )
    changes = kills.count_changes(join_world, whole.parent)
    killed = wrong = 0
    while killed < tries:
        shutil.rmtree(world.parent / "log", ignore_errors=True)
        for _ in range(KILLS):
            process = kills.start(kills.call_until, rng.randint(1, changes), join_world, world.parent)
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        kills.run(join_world, world.parent)
        wrong += log_of(world) != log_of(whole)
    return {"tries": killed, "wrong": wrong}


def run_tries(folder: Path, tries: int, days: int, seed: int, joins: bool) -> dict[str, Any]:
    """Kill so many times. Returns the figures; complaints go to stderr."""
    rng = random.Random(seed)
    unbroken = Unbroken(write_daily_world(folder / "unbroken", days, 150 * days, joins=joins))
    counted = write_daily_world(folder / "counted", days, 150 * days, joins=joins)
    changes = kills.count_changes(call_daily, counted)
    killed = rounds = 0
    wrong: set[int] = set()
    while killed < tries:
        rounds += 1
        settings = write_daily_world(folder / f"round{rounds}", days, 150 * days, joins=joins)
        for _ in range(min(KILLS, tries - killed)):
            status = kill_daily(settings, unbroken, changes, rng)
            if status == 0:  # it had come to its end
                break
            killed += 1
            complaints = [*wrong_live(settings, folder / "cache", unbroken)]
            for complaint in complaints if status == -signal.SIGKILL else [f"exit {status}", *complaints]:
                wrong.add(killed)
                sys.stderr.write(f"try {killed}: {complaint}\n")
        for complaint in wrong_end(settings, unbroken):
            wrong.add(killed)
            sys.stderr.write(f"round {rounds}, to try {killed}: {complaint}\n")
        shutil.rmtree(settings.parent)
    return {"tries": killed, "rounds": rounds, "wrong": len(wrong)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--join", action="store_true", help="of a log that is joined first")
    parser.add_argument("--join-alone", action="store_true", help="kill `corank join` instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, tries, days, seed = Path(name), options.tries, options.days, options.seed
        if options.join_alone:
            figures = kill_joins(folder, tries, days, seed)
        else:
            figures = run_tries(folder, tries, days, seed, options.join)
    harness.report("daily_crash", figures, {"wrong": ("==", 0)}, options.json)


if __name__ == "__main__":
    main()
