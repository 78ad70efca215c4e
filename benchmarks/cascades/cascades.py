"""Losses, structures and samples of a cascade on equal terms, in simulated worlds and real logs; anyone's may enter.

An entry is a change of the config of a world: stages, losses, teachers. Those that the benchmark comes with are in
benchmarks/cascades/entries; `--entry FILE` adds others, and `--plugins MODULE` the losses and stage models that these
name, from the working directory or the Python path. docs/results/cascades.md says how.

Protocol: all entries of a world have the same packed data, widths, epochs, batches and seeds. Each is trained at every
factor of `--rates` with seed 0, and validation clicks choose one; then the other seeds are trained at it. The test
split never chooses. An interval is over users and seeds; a difference is from `--baseline`, paired by both.
A training that diverged, and a world that does not allow an entry, are rows that say so.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import harness
from benchmarks.cascades.entries import CascadeEntry, read_entries
from benchmarks.cascades.figures import Results, figures_of, write_table
from benchmarks.cascades.worlds import CascadeWorld, check_worlds, open_world, world_name
from benchmarks.split_figures import SplitFigures
from corank.analysis.experiments.arms import Arm
from corank.analysis.experiments.engine import (
    Budget,
    TrialData,
    TrialProgress,
    TrialStore,
    train_arm,
)
from corank.core.errors import ConfigError, CorankError, DataError
from corank.core.registry import load_plugins
from corank.core.reports import Report
from corank.datasets.feed.world import PRESETS
from corank.training.device import keep_freed_memory


def chosen_entries(
    files: Sequence[Path], names: Sequence[str] | None, baseline: str
) -> dict[str, CascadeEntry]:
    """The entries that run, the baseline first. Raises ConfigError for a name that there is not."""
    known = read_entries(files)
    if strange := [name for name in [baseline, *(names or ())] if name not in known]:
        raise ConfigError(f"no entry '{strange[0]}'; there are {', '.join(known)}")
    return {name: known[name] for name in dict.fromkeys([baseline, *(names or known)])}


def arms_of(world: CascadeWorld, entries: Mapping[str, CascadeEntry]) -> dict[str, Arm | str]:
    """The arm of each entry; why the world does not allow it, if so."""
    arms: dict[str, Arm | str] = {}
    for name, entry in entries.items():
        try:
            arms[name] = world.arm(name, entry)
        except ConfigError as error:
            arms[name] = str(error)
    return arms


def train_arms(
    world: CascadeWorld, arms: Mapping[str, Arm | str], trials: Path, budget: Budget, report: Report
) -> Results:
    """The result of each arm, or why it could not be trained."""
    allowed = sum(isinstance(arm, Arm) for arm in arms.values())
    progress = TrialProgress(allowed * budget.trials, lambda line: report(f"{world.name}: {line}"))
    store = TrialStore(trials, TrialData(world.packed, world.base, trials, report), SplitFigures())
    results = Results()
    for name, arm in arms.items():
        try:
            results[name] = arm if isinstance(arm, str) else train_arm(arm, store, budget, progress)
        except (ConfigError, DataError) as error:
            results[name] = str(error)
    return results


def refuse_impossible(arms: Sequence[Mapping[str, Arm | str]]) -> None:
    """Raise ConfigError, before anything is trained, if no world allows an entry that the benchmark does not have."""
    for name in arms[0].keys() - read_entries([]).keys():
        reasons = [of[name] for of in arms]
        if all(isinstance(reason, str) for reason in reasons):
            raise ConfigError("\n".join(dict.fromkeys(map(str, reasons))))


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Train all entries in all worlds, and print the results. Raises CorankError."""
    say = Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print
    check_worlds(arguments.worlds)
    budget = Budget(arguments.seeds, tuple(arguments.rates))
    load_plugins(arguments.plugins, Path.cwd())
    entries = chosen_entries(arguments.entry, arguments.entries, arguments.baseline)
    size = arguments.requests, arguments.candidates
    worlds = [open_world(source, folder / "worlds", *size, say) for source in arguments.worlds]
    arms = [arms_of(world, entries) for world in worlds]
    refuse_impossible(arms)
    figures: dict[str, harness.Figure] = {}
    for world, of in zip(worlds, arms, strict=True):
        results = train_arms(world, of, folder / "trials", budget, say)
        figures |= figures_of(world.name, results, arguments.baseline)
    if arguments.json:
        harness.report("cascades", figures, {}, as_json=True)
        return
    for source in arguments.worlds:
        write_table(world_name(source), list(entries), figures, arguments.baseline)
    sys.stdout.write(f"\n{harness.machine()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--worlds",
        nargs="+",
        default=list(PRESETS),
        metavar="WORLD",
        help=f"presets ({', '.join(PRESETS)}; all unless given), and folders of logs",
    )
    parser.add_argument("--entries", nargs="+", metavar="NAME", help="all unless given")
    parser.add_argument(
        "--entry", type=Path, action="append", default=[], metavar="FILE", help="further entries; repeatable"
    )
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="MODULE", help="register losses and stage models"
    )
    parser.add_argument(
        "--baseline", default="clicks", metavar="NAME", help="the entry that others are compared with"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1 / 3, 1.0, 3.0], help="factors on all learning rates"
    )
    parser.add_argument("--requests", type=int, default=8_000, help="of a simulated world")
    parser.add_argument("--candidates", type=int, default=100, help="of a request of a simulated world")
    parser.add_argument(
        "--keep", type=Path, help="folder where worlds and finished trainings are kept; a rerun goes on there"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            run(arguments, arguments.keep or Path(temporary))
        except CorankError as error:
            sys.exit(f"scripts/bench cascades: {error}")


if __name__ == "__main__":
    main()
