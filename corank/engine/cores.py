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
            root, files = mount, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, files = mount / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        own = root / path.lstrip("/")
        for group in (own, *own.parents) if ".." not in own.parts else (root,):
            words = [word for file in files for word in _words(group / file)]
            # quota and period in µs; `max`, −1 and nothing are no quota
            if (
                group.is_relative_to(root)
                and len(words) == 2
                and all(w.isdecimal() and int(w) for w in words)
            ):
                yield int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    """The words of a file; none if it cannot be read, as where a group has no quota."""
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
