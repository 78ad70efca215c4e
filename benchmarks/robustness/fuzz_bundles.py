"""Mutated bundles, heads and manifests of stores: each opens and ranks, or is refused by name.

Cases run in processes of their own, a batch each, so that a crash is counted and does not end the run.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from tests.support.hostile_bundles import HostileBundles, HostileStore
from tests.support.hostile_cases import FileWatch, Outcome
from tests.support.shared import derived, use_folder

BATCH = 500
"""Cases of a process."""
STORE_SHARE = 5
"""One batch of so many is of stores."""


def fuzz_bundles(cases: int, seed: int) -> dict[str, float]:
    """Open mutated bundles, and follow mutated stores.

    Returns:
        `cases`; `failed`, those that raised what is no error of the user's, or crashed; `hung`; `escaped`, those that
        touched a file outside of the bundle or the cache; `accepted`, those in which the mutation did no harm.
    """
    total = Outcome()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        made = Path(folder) / "shared"
        made.mkdir()
        for n, first in enumerate(range(0, cases, BATCH)):
            count = min(BATCH, cases - first)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                try:
                    outcome = pool.submit(_run_batch, Path(folder), n, count, seed + n).result()
                except BrokenProcessPool:
                    outcome = Outcome(cases=count, failed=1, first=f"batch {n} of seed {seed + n} crashed")
            total.add(outcome)
    if total.first:
        Console(stderr=True).print(f"bundles: {total.first}", markup=False)
    return {
        "cases": total.cases,
        "failed": total.failed,
        "hung": total.hung,
        "escaped": total.escaped,
        "accepted": total.accepted,
        "slowest_s": total.slowest,
    }


def _memory() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _run_batch(folder: Path, number: int, cases: int, seed: int) -> Outcome:
    use_folder(folder / "shared")
    case = derived()
    request, own = case.request("test", 0), folder / f"batch{number}"
    if number % STORE_SHARE == STORE_SHARE - 1:
        return HostileStore(case.base / "bundle", request, own).run(cases, seed, FileWatch())
    return HostileBundles(case.base / "bundle", request, own).run(cases, seed, FileWatch())
