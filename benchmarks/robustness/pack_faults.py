"""Packings whose workers and driver are killed with SIGKILL at random moments, and the packed data at the end.

`scripts/bench scale_faults` calls this for its half about packing.
"""

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.pack_processes import digest_files, kill_workers, start_pack, write_world

AT_ONCE = 4
"""Kills of workers in one packing, at most: a task whose worker is killed five times ends it."""


@dataclass(frozen=True)
class PackFaults:
    """Outcomes of killed packings."""

    tries: int
    """Packings that were brought to their end."""
    killed_workers: int
    killed_drivers: int
    wrong: tuple[str, ...]
    """Why packings failed, or which files differ from those of an unbroken packing."""


def kill_packings(workers: int, drivers: int, seed: int = 0, requests: int = 2000) -> PackFaults:
    """Pack until so many workers and so many drivers were killed; each killed driver is followed by one that continues.

    Args:
        workers: how many SIGKILLs of a random worker.
        drivers: how many SIGKILLs of a driver.
        seed: of the moments.
        requests: of the log, each of 5 candidates.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder, requests)
        began = time.monotonic()
        _finish(folder, folder / "unbroken", rng, 0)
        seconds, expected = time.monotonic() - began, digest_files(folder / "unbroken")
        tries = killed_workers = killed_drivers = 0
        wrong: list[str] = []
        while killed_workers < workers or killed_drivers < drivers:
            out = folder / f"packed{tries}"
            if killed_drivers < drivers:
                killed_drivers += _kill_driver(folder, out, rng.uniform(0, seconds))
            said, killed = _finish(folder, out, rng, min(AT_ONCE, workers - killed_workers), seconds)
            killed_workers += killed
            tries += 1
            wrong += [said] if said else _differing(digest_files(out), expected)
    return PackFaults(tries, killed_workers, killed_drivers, tuple(wrong))


def _differing(actual: dict[str, str], expected: dict[str, str]) -> list[str]:
    names = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
    return [f"differ: {', '.join(names)}"] if names else []


def _kill_driver(folder: Path, out: Path, after: float) -> bool:
    """Kill a packing after so many seconds. Returns whether it was still at work."""
    with start_pack(folder, out, "pool", 2) as process:
        time.sleep(after)
        process.kill()
    return process.returncode < 0


def _finish(folder: Path, out: Path, rng: random.Random, kills: int, seconds: float = 1) -> tuple[str, int]:
    """Pack to the end, while workers are killed. Returns what it said if it failed, and how many were killed."""
    with start_pack(folder, out, "pool", 2) as process:
        killed = kill_workers(process, kills, rng, 2 * seconds / (kills + 1))
        said, _ = process.communicate()
    return said if process.returncode else "", killed
