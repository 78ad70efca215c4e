"""The version of corank, and the commit that it was built from."""

import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@cache
def corank_version() -> str:
    """The installed version, such as `0.1.0`."""
    from importlib.metadata import version  # slow to import

    return version("corank")


@cache
def corank_commit() -> str:
    """The commit that it was built from, such as `483597de2f1c`; of a checkout the one that is checked out.

    It ends with `-dirty` if files differed from it. "unknown" if it was built without git.
    """
    package = Path(__file__).parents[1]
    built = package / "commit.txt"  # hatch_build.py writes it
    if built.is_file():
        return built.read_text(encoding="utf-8").strip()
    if not (package.parent / ".git").exists():
        return "unknown"
    ask = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def register_version(registry: "CollectorRegistry") -> None:
    """Add the metric `corank_build_info{version, commit}`, always 1, by which Prometheus tells what runs where."""
    from prometheus_client import Info

    Info("corank_build", "1; the labels are the version of corank and its commit", registry=registry).info(
        {"version": corank_version(), "commit": corank_commit()}
    )
