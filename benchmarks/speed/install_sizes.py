"""MiB to download, MiB on disk and seconds of each install by need: the base and each extra, in fresh environments."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlparse

from benchmarks import harness

ROOT = Path(__file__).parents[2]
MIB = 2**20


def fetch_wheels(folder: Path) -> None:
    """Build corank's wheel, and download those of all that it and its extras need."""
    run(sys.executable, "wheel", f"{ROOT}[all]", "--wheel-dir", str(folder))


def run(python: str, *arguments: str) -> None:
    """Run pip."""
    subprocess.run([python, "-m", "pip", *arguments, "--quiet"], check=True, cwd=ROOT)


def cpu_seconds() -> float:
    """CPU seconds of all processes that this one started and that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def measure_install(extra: str, wheels: Path, scratch: Path) -> dict[str, float]:
    """Install corank into a new environment, from downloaded wheels.

    Args:
        extra: of pyproject.toml; `base` for none.
        wheels: the folder of the wheels.
        scratch: a folder for the environment.

    Returns: MiB of the wheels, MiB on disk with the environment's own pip; seconds and CPU seconds, with those that the
        environment itself takes.
    """
    environment, listed = scratch / extra, scratch / f"{extra}.json"
    what = "corank" if extra == "base" else f"corank[{extra}]"
    started, cpu = time.perf_counter(), cpu_seconds()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    run(python, "install", "--no-index", "--find-links", str(wheels), "--report", str(listed), what)
    seconds, used = time.perf_counter() - started, cpu_seconds() - cpu
    installed = json.loads(listed.read_text(encoding="utf-8"))["install"]
    files = [Path(unquote(urlparse(part["download_info"]["url"]).path)) for part in installed]
    return {
        "download_mib": sum(file.stat().st_size for file in files) / MIB,
        "disk_mib": sum(path.lstat().st_blocks * 512 for path in environment.rglob("*")) / MIB,
        "seconds": seconds,
        "cpu_seconds": used,
    }


def main() -> None:
    """Install each and print its cost."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", nargs="*", default=["base", *extras], choices=["base", *extras])
    parser.add_argument(
        "--wheels",
        type=Path,
        help="keep the wheels in this folder; what is there is not fetched",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        wheels = options.wheels or Path(folder) / "wheels"
        if not wheels.exists():
            fetch_wheels(wheels)
        for extra in options.extras:
            measured = measure_install(extra, wheels, Path(folder))
            figures |= {f"{extra}.{name}": value for name, value in measured.items()}
    aims = {"base.disk_mib": ("<", 600.0)} if "base" in options.extras else {}
    harness.report(
        "install_sizes",
        figures,
        aims,
        options.json,
    )


if __name__ == "__main__":
    main()
