"""Code of an earlier commit and of the working tree, each run as a separate program."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
try:
    from corank.cli.main import main
except ImportError:
    from corank.cli import main
main()
"""


@dataclass(frozen=True)
class Checkout:
    """The code of one commit."""

    root: Path

    def run(
        self, *arguments: object, threads: int | None = 1, program: str = PROGRAM
    ) -> subprocess.CompletedProcess[str]:
        """Run a command. With one thread the order of sums is the code's own; None leaves it to the machine."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads)}
        # -P: not the code of the current folder
        command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def output(self, *arguments: object, threads: int | None = 1) -> str:
        """The output of a command. Raises RuntimeError if it fails."""
        done = self.run(*arguments, threads=threads)
        if done.returncode:
            raise RuntimeError(f"{self.root}: {arguments}: exit {done.returncode}: {done.stderr}")
        return done.stdout


@contextmanager
def base_checkout(folder: Path, commit: str) -> Iterator[tuple[Checkout, Checkout]]:
    """The earlier commit, checked out in a folder for the time being, and the working tree."""
    base = folder / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "-f", str(base), commit], check=True, capture_output=True)
    if not (
        base / "corank_lab"
    ).is_dir():  # an earlier commit: entry points would load the lab of the working tree
        for part in ("", "losses", "models", "datasets"):
            (base / "corank_lab" / part).mkdir(parents=True, exist_ok=True)
            (base / "corank_lab" / part / "__init__.py").touch()
    try:
        yield Checkout(base), Checkout(ROOT)
    finally:
        subprocess.run([*git, "remove", "--force", str(base)], check=True)
