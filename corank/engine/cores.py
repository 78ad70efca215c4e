"""How many cores this process may use: by the machine, its affinity, and the CPU quota of its container."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def count_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    A quota that is no whole number of cores counts as the next one: 1.5 cores keep two threads busy.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *(math.ceil(cores) for cores in quotas(_CGROUPS, _MOUNT))]))


def quotas(cgroups: Path, mount: Path) -> Iterator[float]:
    """Read the CPU quotas of a process's control groups and of all groups above them, in cores.

    Args:
        cgroups: the file that lists the groups, lines of `NUMBER:CONTROLLERS:PATH`; number 0 is version 2, which names
            no controllers (cgroups(7)). A container may see a path of its host: the groups that are absent are passed
            over, and the mount itself is the container's.
        mount: where the groups are mounted.
    """
    try:
        lines = cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            read, root = _read_version_2, mount
        elif "cpu" in controllers.split(","):
            read, root = _read_version_1, mount / "cpu"
        else:
            continue
        own = root / path.lstrip("/")
        for group in (own, *own.parents) if ".." not in own.parts else (root,):
            if group.is_relative_to(root) and (cores := read(group)) is not None:
                yield cores


def _read_version_2(group: Path) -> float | None:
    return _divide(*_numbers(group / "cpu.max", 2))


def _read_version_1(group: Path) -> float | None:
    return _divide(*_numbers(group / "cpu.cfs_quota_us", 1), *_numbers(group / "cpu.cfs_period_us", 1))


def _numbers(path: Path, count: int) -> list[str]:
    """The words of a file; none if it cannot be read, as where a group has no quota."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return words if len(words) == count else []


def _divide(*words: str) -> float | None:
    """Quota by period, in µs; None for `max`, −1 or nothing, which are no quota."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1]) or None
