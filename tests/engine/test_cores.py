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
    ("text", "found"),
    [
        ("150000 100000\n", [1.5]),
        ("max 100000\n", []),
        ("0 100000\n", []),
        ("150000 0\n", []),
        ("", []),
        ("few 100000\n", []),
    ],
)
def test_a_quota_of_a_container(tmp_path: Path, text: str, found: list[float]) -> None:
    mount = group(tmp_path / "mount", max=text)
    assert list(quotas(listed(tmp_path, "0::/\n"), mount)) == found


def test_a_group_above_may_have_the_quota(tmp_path: Path) -> None:
    mount = group(tmp_path / "mount")
    group(mount / "pods", max="200000 100000")
    group(mount / "pods" / "one", max="max 100000")
    assert list(quotas(listed(tmp_path, "0::/pods/one\n"), mount)) == [2.0]


@pytest.mark.parametrize("path", ["/docker/not/here", "/../../elsewhere"])
def test_a_path_of_the_host_is_passed_over(tmp_path: Path, path: str) -> None:
    group(tmp_path, max="900000 100000")
    mount = group(tmp_path / "mount", max="300000 100000")
    assert list(quotas(listed(tmp_path, f"0::{path}\n"), mount)) == [3.0]


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    group(mount / "cpu" / "box", cfs_quota_us="250000", cfs_period_us="100000")
    group(mount / "cpu", cfs_quota_us="-1", cfs_period_us="100000")
    text = "4:cpu,cpuacct:/box\n3:memory:/box\n1:name=systemd:/\n"
    assert list(quotas(listed(tmp_path, text), mount)) == [2.5]


def test_no_control_groups(tmp_path: Path) -> None:
    assert list(quotas(tmp_path / "absent", tmp_path)) == []


def test_the_least_of_affinity_and_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CGROUPS", listed(tmp_path, "0::/\n"))
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert count_cores() == 8
    group(tmp_path / "mount", max="250000 100000")
    assert count_cores() == 3
    group(tmp_path / "mount", max="50000 100000")
    assert count_cores() == 1
    group(tmp_path / "mount", max="5000000 100000")
    assert count_cores() == 8
