"""The lock files: which version of every dependency, and the hashes of its files."""

import hashlib
import re
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TIERS: Mapping[str, tuple[str, ...]] = {
    "train": (),
    "test": ("train",),
    "docs": ("train",),
    "all": ("train", "test", "docs"),
}
"""Tier → those that are installed before it. What the demo needs; what the default tests add; what the site adds;
what the other tests and the linters add."""
TORCH = ("torch-cpu", "torch-cuda")
"""torch's CPU build; its default build, for CUDA, with the libraries that it needs."""
LOCKS = {name: ROOT / "requirements" / f"{name}.lock" for name in (*TIERS, *TORCH)}
"""No package stands in two of them, but for torch, and for what both the tests and the site add to `train`."""


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
        compiled: a folder with a file for each of TIERS: pins with hashes of the tier and those before it, of equal
            versions, for the default build of torch.
        cpu_torch: a folder that holds the wheel of torch's CPU build, of the same version.
    """
    (wheel,) = cpu_torch.glob("torch-*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cpu = [f"torch=={wheel.name.split('-')[1]} \\\n    --hash=sha256:{digest}\n"]
    texts = {tier: (compiled / tier).read_text(encoding="utf-8") for tier in TIERS}
    entries = {tier: re.findall(r"^\S.*\n(?: .*\n)*", text, re.MULTILINE) for tier, text in texts.items()}
    cuda = [entry for entry in entries["all"] if _CUDA.match(entry)]
    locked = {"torch-cpu": cpu, "torch-cuda": cuda}
    for tier, before in TIERS.items():
        earlier = {*cuda, *chain.from_iterable(entries[one] for one in before)}
        locked[tier] = [entry for entry in entries[tier] if entry not in earlier]
    for name, chosen in locked.items():
        LOCKS[name].write_text(_HEAD + "".join(chosen), encoding="utf-8")


if __name__ == "__main__":
    write_locks(Path(sys.argv[1]), Path(sys.argv[2]))
