"""Removal of packed data that neither a config nor the runs next to it use."""

from pathlib import Path

from corank.core.errors import BusyError, CorankError, DataError
from corank.core.files import remove_abandoned, remove_folder
from corank.core.locks import LOCK, LockHolder, WriteLock
from corank.core.types import Report
from corank.data.pack_manifest import packed_settings, read_pack_manifest
from corank.data.packs import SETS, list_packs
from corank.training.config import Config
from corank.training.preparation.packed_data import local_root, packed_location
from corank.training.run import Run

RUNS = ("runs/*", "sweeps/*/run", "tunings/*/run")
"""Where commands put runs, next to the config."""


def prune_packed(config: Config, base: Path, report: Report = lambda line: None) -> int:
    """Remove the sets of features that neither the config nor a run next to it uses.

    Args:
        config: the config, whose data are packed on this machine.
        base: its folder; runs are looked for as RUNS says.
        report: receives a line about each set that is removed, and one about all.

    Returns how many bytes were freed. Raises BusyError if a run next to it is being trained or the data are being
    packed, ConfigError, DataError if a run cannot be read or a set not removed.
    """
    root, freed, count = local_root(config, base), 0, 0
    used, folders = [packed_settings(config.declared.features)], []
    for run in _open_runs(base):
        location = packed_location(run.config, run.base)
        if isinstance(location, Path):
            folders.append(location.resolve())
            if folders[-1] == root:
                used.append(packed_settings(run.config.declared.features))
    try:
        with WriteLock.of_replacement(root, "pack"):
            remove_abandoned(root / SETS, "*")
            sets = list_packs(root)[1:]
            for folder in sets:
                if _read_settings(folder) in used or any(one.is_relative_to(folder) for one in folders):
                    continue
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                remove_folder(folder)
                freed, count = freed + size, count + 1
                report(f"removed {folder}: {size:,} bytes")
    except OSError as error:
        raise DataError(f"{root}: cannot be pruned: {error}") from None
    report(f"removed {count} of {len(sets)} other sets of features: {freed:,} bytes freed")
    return freed


def _read_settings(folder: Path) -> dict[str, object] | None:
    """The features of a set; None of one that cannot be opened."""
    try:
        return packed_settings(read_pack_manifest(folder).features)
    except DataError:
        return None


def _open_runs(base: Path) -> list[Run]:
    """Open the runs next to a config. Raises BusyError, DataError."""
    runs = []
    for folder in sorted(path for pattern in RUNS for path in base.glob(pattern)):
        if holder := LockHolder.read(folder / LOCK):
            raise BusyError(f"{folder}: {holder} is writing it; prune when it has ended")
        if (folder / "run.json").is_file():
            try:
                runs.append(Run.open(folder))
            except CorankError as error:
                raise DataError(
                    f"{folder}: cannot be read, so that nothing is removed which it may use; move it away ({error})"
                ) from None
    return runs
