"""CPU seconds of the commands, of the working tree and of an earlier commit, in turn, each on a world of its own.

Of the working tree also those that pass in imports: the CPU time of a thread within its outermost import, summed. Time
is not `-X importtime`'s, which is that of the clock, and so that of whatever else the machine does.
"""

import argparse
import os
import resource
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.checkout import PROGRAM, Checkout, base_checkout
from corank.core.artifact_cache import CACHE

BASE = "c1dad62c"
"""The commit before graphs had templates, predictions were kept and imports sorted."""
COMMANDS = {
    "help": "--help",
    "config_error": "train {0}/wrong.yaml",
    "check": "check {0}/config.yaml",
    "pack": "pack {0}/config.yaml",
    "train": "train {0}/config.yaml --run {0}/run --overwrite",
    "evaluate": "evaluate {0}/run",
    "report": "report {0}/run",
    "compare": "compare {0}/run {0}/other",
    "explain": "explain {0}/run",
    "request": "request {0}/run",
    "export_first": "export {0}/run {0}/bundle",
    "export": "export {0}/run {0}/bundle",
    "publish": "publish {0}/bundle lmdb:{0}/store",
    "store_ls": "store ls lmdb:{0}/store",
}
"""By figure: the command, in the order in which one needs what another wrote; {0} is the folder of the world.

`export_first` finds no template of its graphs, `export` that of the round before; `evaluate` finds no predictions,
`report` and `compare` those of `evaluate`. `other` is a copy of the run.
"""
TIMED = (
    """
import atexit, sys, threading, time
from importlib import _bootstrap

find_and_load, of_thread, spent = _bootstrap._find_and_load, threading.local(), []

def timed(name, import_):
    if getattr(of_thread, "imports", False):
        return find_and_load(name, import_)
    of_thread.imports, began = True, time.thread_time()
    try:
        return find_and_load(name, import_)
    finally:
        of_thread.imports = False
        spent.append(time.thread_time() - began)

_bootstrap._find_and_load = timed
atexit.register(lambda: print(sum(spent), file=sys.__stderr__))
"""
    + PROGRAM
)
"""Runs a command, and ends stderr with a line: the CPU seconds of its imports."""


def measure_cpu(code: Checkout, name: str, world: Path) -> tuple[float, float]:
    """CPU seconds of a command, its interpreter's start and end included, and those of its imports.

    Raises RuntimeError if the command fails, other than by the mistake that it is to report.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = code.run(*COMMANDS[name].format(world).split(), program=TIMED)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *said, imports = done.stderr.splitlines()
    if done.returncode != (name == "config_error"):
        raise RuntimeError(f"{code.root}: {name}: exit {done.returncode}: {said}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, float(imports)


def prepare(name: str, world: Path) -> None:
    """Leave a command what it is to find."""
    run = world / "run"
    if name == "export_first":
        for kept in (Path(os.environ[CACHE]), run):
            shutil.rmtree(kept / "templates", ignore_errors=True)
    if name == "evaluate":
        shutil.rmtree(run / "predictions", ignore_errors=True)
    if name == "compare":
        shutil.copytree(run, world / "other", dirs_exist_ok=True)


def print_table(figures: Mapping[str, float], aims: Mapping[str, tuple[str, float]]) -> None:
    """Print a row a command: CPU seconds of both sides, and imports among those of the working tree."""
    table = Table("command", title="command_times: CPU seconds", title_justify="left")
    columns = ("before", "now", "imports")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("aim of now")
    for name in dict.fromkeys(key.partition(".")[0] for key in figures):
        cells = [f"{figures[f'{name}.{column}']:.2f}" for column in columns]
        op, value = aims.get(f"{name}.now", ("", 0.0))
        met = op and ("met" if harness.COMPARE[op](figures[f"{name}.now"], value) else "NOT met")
        table.add_row(name, *cells, f"{op} {value:g}: {met}" if op else "")
    console = Console()
    console.print(table)
    console.print(harness.machine(), highlight=False)


def main() -> None:
    """Run the commands in turn, and print the least of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument(
        "--requests", type=int, default=500, help="of 200 candidates; 5000 are a million rows"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    say = partial(Console(stderr=True).print, highlight=False)
    with tempfile.TemporaryDirectory() as scratch, base_checkout(Path(scratch), BASE) as codes:
        os.environ[CACHE] = str(Path(scratch) / "cache")
        for side, code in zip(("before", "now"), codes, strict=True):
            world = Path(scratch) / side
            say(f"{side}: a world of {options.requests:,} requests")
            code.output("simulate", world, "--requests", options.requests)
            text = (world / "config.yaml").read_text(encoding="utf-8")
            (world / "wrong.yaml").write_text(text.replace("features:", "feature:"), encoding="utf-8")
        for name in options.commands:
            for _ in range(options.rounds):
                for side, code in zip(("before", "now"), codes, strict=True):
                    prepare(name, Path(scratch) / side)
                    seconds, imports = measure_cpu(code, name, Path(scratch) / side)
                    measured = {side: seconds} | ({"imports": imports} if side == "now" else {})
                    for what, value in measured.items():
                        figures[f"{name}.{what}"] = min(value, figures.get(f"{name}.{what}", value))
            say(f"{name}: {figures[f'{name}.before']:.2f} s before, {figures[f'{name}.now']:.2f} s now")
    aims = {"help.now": ("<=", 0.3), "config_error.now": ("<=", 1.0)}
    aims |= {"check.now": ("<=", 3.0)} if options.requests >= 5_000 else {}
    aims = {key: aim for key, aim in aims.items() if key in figures}
    if options.json:
        harness.report("command_times", figures, aims, as_json=True)
    else:
        print_table(figures, aims)


if __name__ == "__main__":
    main()
