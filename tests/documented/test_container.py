"""The image of examples/serve/Containerfile: what its COPY and RUN lines make in a folder serves and trains."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from supply_chain.lock import ROOT
from tests.documented.wheelhouse import pip_settings
from tests.support.daily_world import store_of, write_daily_world
from tests.support.service import running_service

pytestmark = pytest.mark.slow
FILE = ROOT / "examples" / "serve" / "Containerfile"
OF_THE_SYSTEM = re.compile(r"(apt-get (update|install)|rm -rf /var/lib/apt/lists|useradd) ?")
"""Commands of RUN lines that are left out: what they install is here."""
PATHS = re.compile(r"(?<![\w./])/(source|opt/corank)\b")
"""Of the image; they lie in the test's folder instead."""


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Containerfile and their arguments; continued lines are one."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, " ".join(rest.split())


@dataclass
class Image:
    """What a Containerfile makes, below a folder."""

    root: Path
    extras: str | None
    """The build argument EXTRAS; None for the file's own."""

    def build(self) -> "Image":
        """Carry out the lines that copy and run."""
        arguments: dict[str, str] = {}
        for name, rest in instructions(FILE.read_text(encoding="utf-8")):
            if name == "ARG":
                key, _, value = rest.partition("=")
                arguments[key] = self.extras if key == "EXTRAS" and self.extras else value
            elif name == "COPY" and not rest.startswith("--from"):
                self._copy(*shlex.split(self._placed(rest)))
            elif name == "RUN":
                self._run(rest, arguments)
        shutil.rmtree(self.root / "source")  # of the first stage; the last one has /opt/corank alone
        return self

    def _copy(self, *paths: str) -> None:
        """As COPY does: files, or what a folder holds."""
        *sources, target = paths
        kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
        for source in sources:
            assert kept[0] == "*" and f"!{source}" in kept, f".dockerignore leaves {source} out"
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
                )
            else:
                Path(target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target)

    def _run(self, line: str, arguments: Mapping[str, str]) -> None:
        commands = [one.strip() for one in line.split("&&") if not OF_THE_SYSTEM.match(one.strip())]
        if commands:
            script = self._placed(" && ".join(commands))
            environment = {**os.environ, **pip_settings(), **arguments}
            done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"RUN {script}\n{done.stdout}{done.stderr}"

    def _placed(self, text: str) -> str:
        return PATHS.sub(lambda path: str(self.root / path[1]), text)

    @property
    def corank(self) -> Path:
        """The entry point."""
        return self.root / "opt" / "corank" / "bin" / "corank"

    def run(self, *arguments: str, folder: Path) -> str:
        """Run the image with arguments. Returns what it printed."""
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        environment = {"PATH": f"{self.corank.parent}:{os.environ['PATH']}", "HOME": str(home)}
        done = subprocess.run(
            ["corank", *arguments],
            env=environment,
            executable=self.corank,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"corank {shlex.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout


def documented_extras() -> str:
    """The extras of the image that trains, as the page on running a service builds it."""
    page = (ROOT / "docs" / "operations" / "run.md").read_text(encoding="utf-8")
    (extras,) = re.findall(
        rf"--file {FILE.relative_to(ROOT)} --build-arg EXTRAS=(\S+) --tag \S+-train:", page
    )
    return str(extras)


def answers(image: Image, source: str, tmp_path: Path) -> bool:
    """Whether the image serves a bundle or a store."""
    with running_service(source, tmp_path / "cache", program=image.corank) as (url, _):
        answer = httpx2.post(f"{url}/rank", json={"user": {"id": 1}, "candidates": [1, 2, 3]})
        return answer.status_code == 200 and bool(answer.json()["items"])


def test_the_image_serves_and_has_no_torch(tmp_path: Path, small_world: Path, trained_bundle: Path) -> None:
    image = Image(tmp_path / "root", None).build()
    image.run("check", str(small_world / "config.yaml"), folder=tmp_path)
    assert "lists" in image.run("import", "--help", folder=tmp_path)
    assert answers(image, str(trained_bundle), tmp_path)
    assert not [*image.root.glob("opt/corank/lib/python3*/site-packages/torch*")]


def test_the_image_with_what_trains_checks_trains_and_trains_daily(tmp_path: Path) -> None:
    image = Image(tmp_path / "root", documented_extras()).build()
    shop = tmp_path / "shop"
    settings = write_daily_world(shop, days=3, requests=600)
    image.run("check", "config.yaml", folder=shop)
    image.run("train", "config.yaml", folder=shop)
    image.run("daily", "daily.yaml", folder=shop)
    assert answers(image, store_of(settings), tmp_path)
