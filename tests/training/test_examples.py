"""The examples are accepted, and the documents are true to the code: keys, files and links."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from corank.core.settings import validate
from corank.training.config.config import Config
from corank.training.config.config_file import plain, read

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
GENERATED = {ROOT / "docs" / "extending" / "bases.md", ROOT / "docs" / "operations" / "watch.md"}
"""Pages that the site generates a part of: tests/docs_site checks links to them."""
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_and_survives_being_written_out(path: Path) -> None:
    config = read(path)
    assert validate(Config, plain(config), "written out") == config


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not broken


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page; on the site, there may be more below them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_examples_are_found(path: Path) -> None:
    lines = re.findall(
        r"^ *from (corank[\w.]*) import ([\w, ]+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    for module, names in lines:
        for name in names.split(","):
            assert hasattr(import_module(module), name.strip()), f"from {module} import {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_within_the_repository_are_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8"))
    pages = [(path.parent / link if link else path, anchor) for link, anchor in links]
    by_hand = [(page, anchor) for page, anchor in pages if page.resolve() not in GENERATED]
    assert not [(str(page), anchor) for page, anchor in by_hand if anchor not in _anchors(page)]
