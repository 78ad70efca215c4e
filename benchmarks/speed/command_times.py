"""CPU seconds of the commands, of the working tree and of an earlier commit, in turn, each on a world of its own."""

import argparse
import os
import resource
import shutil
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.checkout import Checkout, base_checkout
from corank.core.artifact_cache import CACHE

BASE = "96e7d38"
"""The commit before the work on the speed of commands."""
COMMANDS = {
    "help": "--help",
    "config_error": "train {0}/wrong.yaml",
    "check": "check {0}/config.yaml",
    "pack": "pack {0}/config.yaml",
    "train": "train {0}/config.yaml --run {0}/run --overwrite",
    "evaluate": "evaluate {0}/run",
    "report": "report {0}/run",
    "explain": "explain {0}/run",
    "export_first": "export {0}/run {0}/bundle",
    "export": "export {0}/run {0}/bundle",
}
"""By figure: the command, in the order in which one needs what another wrote; {0} is the folder of the world.

`export_first` finds no template of its graphs, `export` that of the round before.
"""


def measure_cpu(code: Checkout, arguments: list[str]) -> float:
    """CPU seconds of a command, its interpreter's start and end included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code.run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run the commands in turn, and print the least of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument(
        "--requests", type=int, default=1_000, help="of 200 candidates; 5000 are a million rows"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, base_checkout(Path(scratch), BASE) as codes:
        os.environ[CACHE] = str(Path(scratch) / "cache")
        for side, code in zip(("before", "now"), codes, strict=True):
            world = Path(scratch) / side
            code.output("simulate", world, "--requests", options.requests)
            text = (world / "config.yaml").read_text(encoding="utf-8")
            (world / "wrong.yaml").write_text(text.replace("features:", "feature:"), encoding="utf-8")
        for name in options.commands:
            for _ in range(options.rounds):
                for side, code in zip(("before", "now"), codes, strict=True):
                    if name == "export_first":
                        shutil.rmtree(Path(os.environ[CACHE]) / "templates", ignore_errors=True)
                    seconds = measure_cpu(code, COMMANDS[name].format(Path(scratch) / side).split())
                    figures[f"{name}.{side}"] = min(seconds, figures.get(f"{name}.{side}", seconds))
    aims = {"help.now": ("<=", 0.3), "config_error.now": ("<=", 1.0)}
    aims |= {"check.now": ("<=", 3.0)} if options.requests >= 5_000 else {}
    harness.report("command_times", figures, {k: a for k, a in aims.items() if k in figures}, options.json)


if __name__ == "__main__":
    main()
