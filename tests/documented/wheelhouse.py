"""Environments without the sources, made by pip without an index: of the wheel, and of what this environment has.

For each distribution that the wheel or its extras need, directly or not, there is a stand-in for its wheel: it has the
real one's name, version, requirements and commands, and a path file that leads to links of the real one's modules. So
pip resolves and installs as ever, and nothing is downloaded or copied.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path
from zipfile import ZipFile

from supply_chain.lock import ROOT
from tests.support.base_installation import installed_distributions, link_distribution, wheel_requirements
from tests.support.shared import shared

OTHERS = ["hatchling", "scikit-learn"]
"""What builds corank and what an example needs, beside what its extras need."""


def wheelhouse() -> Path:
    """The folder in which pip finds all; made once a session."""
    return shared("wheelhouse", _fill) / "wheels"


def _fill(folder: Path) -> None:
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.glob("corank-*.whl")
    for found in installed_distributions([*wheel_requirements(wheel, {"all"}), *OTHERS]):
        _stand_in(found, wheels, folder / "modules")


def _stand_in(found: Distribution, wheels: Path, modules: Path) -> None:
    """Write a wheel that installs links to a distribution's modules."""
    name = found.name.replace("-", "_").replace(".", "_").lower()
    links = modules / name
    links.mkdir(parents=True, exist_ok=True)
    link_distribution(found, links, metadata=False)
    stem = f"{name}-{found.version}"
    info = f"{stem}.dist-info"
    files = {
        f"{name}.pth": f"{links}\n",
        f"{info}/METADATA": found.read_text("METADATA") or "",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: corank\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": found.read_text("entry_points.txt") or "",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def pip_settings() -> dict[str, str]:
    """Variables by which pip, and the one that it starts to build a package, has the wheelhouse alone."""
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheelhouse()),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }


def shared_environment(extras: Sequence[str] | None) -> Path:
    """An environment with the wheel and some of its extras, made once a session; it is only read."""
    name = "-".join(["environment", *(["bare"] if extras is None else sorted(extras))])
    return shared(name, lambda folder: make_environment(folder / "env", extras, with_pip=False)) / "env"


def make_environment(folder: Path, extras: Sequence[str] | None, with_pip: bool) -> Path:
    """Make an environment with the wheel and some of its extras; None leaves the wheel out.

    Args:
        folder: a new one.
        extras: of the wheel.
        with_pip: whether the environment has pip itself.
    """
    venv.create(folder, with_pip=with_pip)
    if extras is not None:
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
        wanted = f"corank[{','.join(extras)}]" if extras else "corank"
        install = [*pip, "install", "--quiet", wanted]
        done = subprocess.run(install, env=os.environ | pip_settings(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder
