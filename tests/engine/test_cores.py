"""How many cores a process may use, by affinity and by the quota of its container."""

import os
from pathlib import Path

import pytest

from corank.engine import cores
from corank.engine.cores import count_cores, quotas


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"cpu.{name}").write_text(text)
    return folder


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("groups", "path", "expected"),
    [
        ({"": "150000 100000\n"}, "/", [1.5]),
        ({"": "max 100000\n"}, "/", []),
        ({"": "", "pods": "200000 100000", "pods/one": "max 100000"}, "/pods/one", [2.0]),
    ],
)
def test_quotas_are_of_a_group_and_those_above(
    tmp_path: Path, groups: dict[str, str], path: str, expected: list[float]
) -> None:
    for name, text in groups.items():
        group(tmp_path / "mount" / name, max=text)
    assert list(quotas(listed(tmp_path, f"0::{path}\n"), tmp_path / "mount")) == expected


def test_the_least_of_affinity_and_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CGROUPS", listed(tmp_path, "0::/\n"))
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert count_cores() == 8
    for quota, expected in (("250000", 3), ("50000", 1), ("5000000", 8)):
        group(tmp_path / "mount", max=f"{quota} 100000")
        assert count_cores() == expected
