"""The lock files: which version of every dependency, and the hashes of its files."""

import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LOCKS = tuple(ROOT / f"requirements{build}.lock" for build in ("", ".cpu", ".cuda"))
"""What every machine installs; torch's CPU build; its default build, for CUDA, with the libraries that it needs."""


class LockedPackage(NamedTuple):
    """A package of the lock."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of its files, any of which may be installed."""


def read_lock(path: Path) -> list[LockedPackage]:
    """Read a lock file, in the order of its lines."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)(.*)$", text, re.MULTILINE)
    return [
        LockedPackage(name, version, tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)))
        for name, version, rest in found
    ]


_CUDA = re.compile(r"(nvidia-|cuda-|triton==|torch==)")
_HEAD = "# Made by scripts/lock; do not edit. For Python 3.11 on Linux x86-64; scripts/setup installs it.\n"


def write_locks(compiled: Path, cpu_torch: Path) -> None:
    """Split what `uv pip compile` wrote into the locks.

    Args:
        compiled: pins with hashes of everything, for the default build of torch.
        cpu_torch: a folder that holds the wheel of torch's CPU build, of the same version.
    """
    entries = re.findall(r"^\S.*\n(?: .*\n)*", compiled.read_text(encoding="utf-8"), re.MULTILINE)
    (wheel,) = cpu_torch.glob("torch-*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cuda = [entry for entry in entries if _CUDA.match(entry)]
    cpu = [f"torch=={wheel.name.split('-')[1]} \\\n    --hash=sha256:{digest}\n"]
    common = [entry for entry in entries if entry not in cuda]
    for lock, chosen in zip(LOCKS, (common, cpu, cuda), strict=True):
        lock.write_text(_HEAD + "".join(chosen), encoding="utf-8")


if __name__ == "__main__":
    write_locks(Path(sys.argv[1]), Path(sys.argv[2]))
