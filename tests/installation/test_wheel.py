"""The wheel, in an environment with the dependencies of the base installation alone."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import httpx2
import pytest

from corank.analysis.logged_request import logged_request
from corank.training.run import Run
from supply_chain.lock import ROOT
from tests.support.base_installation import base_distributions, link_distribution
from tests.support.service import running_service


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel. Nothing is downloaded: the dependencies are linked."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (wheel,) = built.glob("*.whl")
    for distribution in base_distributions(wheel):
        link_distribution(distribution, site)
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_serves_a_bundle(
    environment: Path, trained: Run, trained_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    request = logged_request(trained, "test", 0)
    with running_service(str(trained_bundle), tmp_path, program=environment / "corank") as (url, process):
        answer = httpx2.post(f"{url}/rank", json=request)
        assert answer.status_code == 200 and answer.json()["items"]
        assert Path(process.cmdline()[0]).parent == environment


PACKAGES = "corank", "corank_serve", "corank_continual", "corank_lab"


def test_wheel_and_source_hold_the_package(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    paths = (path for name in PACKAGES for path in (ROOT / name).rglob("*.*"))
    package = {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as file:
        entries = {name for name in file.namelist() if ".dist-info/" not in name}
    assert "corank/py.typed" in entries and "corank_serve/http/static/page.html" in entries
    study = {f"corank/analysis/experiments/study/{path.name}" for path in (ROOT / "examples/study").iterdir()}
    assert len(study) == 9 and entries == package | study | {"corank/commit.txt"}
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package | {"corank/commit.txt"} <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert {name.split("/")[0] for name in names}.isdisjoint({"benchmarks", ".venv", "demo"})


def commit_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as files:
        return files.read("corank/commit.txt").decode().strip()


@pytest.mark.slow
def test_the_source_names_its_commit_wherever_it_is_built(built: Path, tmp_path: Path) -> None:
    """Also in a checkout of something else, and without the file that names it."""
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("corank-*")
    commits = []
    for n in range(2):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / str(n))]
        subprocess.run(build, cwd=source, check=True)
        commits.append(commit_of(tmp_path / str(n) / wheel.name))
        (source / "corank/commit.txt").unlink(missing_ok=True)
    assert commits == [commit_of(wheel), "unknown"]


def test_a_release_needs_a_checkout(tmp_path: Path) -> None:
    script = shutil.copytree(ROOT / "scripts", tmp_path / "scripts") / "release"
    done = subprocess.run([str(script), str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "needs git and a checkout" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_a_release_is_built_twice_the_same_and_names_its_commit(tmp_path: Path) -> None:
    """Of a clone, whose commit has all that is checked out; what else it does needs the package index."""
    clone, out = tmp_path / "clone", tmp_path / "out"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    setup = clone / "scripts" / "setup"
    script = [str(clone / "scripts" / "release"), str(out)]
    environment = os.environ | {"PYTHONPATH": "", "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONS": ""}

    def release() -> subprocess.CompletedProcess[str]:
        return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)

    setup.write_text("#!/bin/sh\n")  # installs nothing
    assert "differs from its commit" in release().stderr and not out.exists()
    commit = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "commit",
        "--quiet",
        "-am",
        "Install nothing",
    ]
    subprocess.run(["git", "-C", str(clone), *commit], check=True)
    done = release()
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    sums = (out / "SHA256SUMS").read_text().split()
    assert sums[1::2] == sorted(path.name for path in out.iterdir() if path.name != "SHA256SUMS")
    assert sums[sums.index(wheel.name) - 1] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    head = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    named = commit_of(wheel)
    assert len(named) == 12 and head.stdout.startswith(named)
    assert "not empty" in release().stderr
