"""Removal of packed data that neither a config nor the runs beside it use."""

from pathlib import Path

from corank.core.errors import BusyError, CorankError, DataError
from corank.core.locks import LOCK, LockHolder
from corank.core.types import Report
from corank.data.reuse.prune import prune_sets
from corank.training.config import Config
from corank.training.preparation.packed_data import local_root, packed_location
from corank.training.run import Run

RUNS = ("runs/*", "sweeps/*/run", "tunings/*/run")
"""Where commands put runs, beside the config."""


def prune_packed(config: Config, base: Path, report: Report = lambda line: None) -> int:
    """Remove the sets of features that neither the config nor a run beside it uses.

    Args:
        config: the config, whose data are packed on this machine.
        base: its folder; runs are looked for as RUNS says.
        report: receives a line about each set that is removed, and one about all.

    Returns how many bytes were freed. Raises BusyError if a run beside it is being trained or the data are being
    packed, ConfigError, DataError if a run cannot be read.
    """
    root, others, kept = local_root(config, base), [], []
    for run in _open_runs(base):
        location = packed_location(run.config, run.base)
        if isinstance(location, Path) and location.resolve() == root:
            others.append(run.config.declared.features)
        elif isinstance(location, Path):
            kept.append(location.resolve())
    return prune_sets(root, config.declared.features, others, kept, report)


def _open_runs(base: Path) -> list[Run]:
    """Open the runs beside a config. Raises BusyError, DataError."""
    found = []
    for folder in sorted(path for pattern in RUNS for path in base.glob(pattern)):
        if holder := LockHolder.read(folder / LOCK):
            raise BusyError(f"{folder}: {holder} is writing it; prune when it has ended")
        if (folder / "run.json").is_file():
            try:
                found.append(Run.open(folder))
            except CorankError as error:
                raise DataError(
                    f"{folder}: cannot be read, so that nothing is removed which it may use; move it away ({error})"
                ) from None
    return found
