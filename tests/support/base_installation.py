"""The installation of `pip install .`, without an extra: its distributions, and a process that has only those."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from packaging.requirements import Requirement

from corank.core.lazy import EXTRA_OF
from supply_chain.lock import ROOT

_RUN = """
import json, sys
absent = set(sys.argv[1].split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    err: str


def without_extras(code: str, *arguments: str, absent: Iterable[str] = EXTRA_OF) -> str:
    """Run Python code in a process where the modules of all extras are absent, or others. Returns what it prints.

    `sys.argv[2:]` are the arguments.
    """
    command = [sys.executable, "-c", _RUN + code, ",".join(absent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


_COMMANDS = """
import contextlib, io
from corank.cli.main import main
ended = []
for arguments in json.loads(sys.argv[2]):
    sys.argv, err = ["corank", *arguments], io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            ended.append((end.code or 0, err.getvalue()))
print(json.dumps(ended))
"""


def run_without_extras(commands: Sequence[Sequence[str]], absent: Iterable[str] = EXTRA_OF) -> list[Ended]:
    """Run commands of corank, one after another, in a process where the modules of all extras are absent, or others."""
    ended = without_extras(_COMMANDS, json.dumps(commands), absent=absent)
    return [Ended(*end) for end in json.loads(ended)]


def base_distributions(wheel: Path) -> Iterator[Distribution]:
    """Find what a wheel needs without its extras, among what this environment has."""
    return installed_distributions(wheel_requirements(wheel))


def wheel_requirements(wheel: Path, extras: Set[str] = frozenset()) -> list[str]:
    """What a wheel needs itself, and for some of its extras."""
    with ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(file.read(metadata).decode())
    own = message["Name"]
    wanted = _requirements(message.get_all("Requires-Dist"), extras)
    inner = {extra for one in wanted if one.name == own for extra in one.extras} - extras
    if inner:
        return wheel_requirements(wheel, extras | inner)
    return [_bare(one) for one in wanted if one.name != own]


def _bare(requirement: Requirement) -> str:
    """A requirement that holds on this machine, without its condition."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def installed_distributions(requirements: Iterable[str]) -> Iterator[Distribution]:
    """Find requirements, and what those need, among what this environment has."""
    waiting, seen = _requirements(requirements, set()), set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        fresh = {(name, extra) for extra in requirement.extras | {""}} - seen
        if not fresh:
            continue
        package = distribution(name)
        if (name, "") in fresh:
            yield package
        seen |= fresh
        waiting += _requirements(package.requires, {extra for _, extra in fresh})


def _requirements(lines: Iterable[str] | None, extras: Set[str]) -> list[Requirement]:
    """What a distribution needs on this machine, of all that it lists, for itself and for some of its extras."""
    wanted = [Requirement(line) for line in lines or ()]
    return [
        one
        for one in wanted
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""})
    ]


def link_distribution(found: Distribution, site: Path, metadata: bool = True) -> None:
    """Link the files of a distribution, its metadata or not, into the folder of another environment's packages."""
    for top in {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}:
        link = site / top
        if not link.exists() and (metadata or not top.endswith(".dist-info")):
            link.symlink_to(Path(str(found.locate_file(top))).resolve())
