"""docs/reference/stability.md against the kept list of public names: each is stable or experimental, and says so."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import corank
from corank.cli.main import build_app
from corank.core.page import PageRule, PageSettings
from corank.engine.ray import RayEngine
from corank.features.feature_kind import FeatureKind
from corank.features.log_schema import DataSettings
from docs_site.command_pages import walk
from docs_site.docstrings import field_docstrings
from tests.api.public_api import KEPT

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "stability.md"
PROMISES = KEPT.read_text(encoding="utf-8").splitlines()


def patterns(section: str) -> list[str]:
    """The names of a section's table."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| ")]
    return [name for cell in cells[1:] for name in re.findall("`([^`]+)`", cell)]


EXPERIMENTAL = [line for line in PROMISES if any(fnmatchcase(line, one) for one in patterns("Experimental"))]


def test_every_promise_has_a_level() -> None:
    known = patterns("Stable") + patterns("Experimental")
    assert [line for line in PROMISES if not any(fnmatchcase(line, one) for one in known)] == []


def test_every_name_of_the_page_is_promised() -> None:
    known = patterns("Stable") + patterns("Experimental")
    assert [one for one in known if not any(fnmatchcase(line, one) for line in PROMISES)] == []


def test_experimental_commands_and_options_say_so() -> None:
    for name, command in walk(build_app(), "corank"):
        if name in EXPERIMENTAL:
            assert "experimental" in command.help.lower(), name
        for argument in command.assemble_argument_collection():
            if name not in EXPERIMENTAL and f"{name} {argument.name}" in EXPERIMENTAL:
                assert "experimental" in str(argument.parameter.help).lower(), argument.name


@pytest.mark.parametrize("part", [PageSettings, PageRule, RayEngine])
def test_experimental_settings_and_parts_say_so(part: type) -> None:
    assert "experimental" in str(part.__doc__).lower()


def test_experimental_keys_say_so() -> None:
    for kind in (DataSettings, FeatureKind):
        for key, described in field_docstrings(kind).items():
            if any(line.split(" = ")[0] == f"{kind.__name__}: {key}" for line in EXPERIMENTAL):
                assert "experimental" in described.lower(), key


def test_experimental_functions_say_so() -> None:
    named = {match[1] for line in EXPERIMENTAL if (match := re.match(r"corank\.(\w+)", line))}
    assert named and all("experimental" in getattr(corank, name).__doc__.lower() for name in named)
