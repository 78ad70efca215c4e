"""Nothing tells a reader to install corank by its name: no index has it, so whoever registers the name gets them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BY_NAME = re.compile(
    r"\b(?:install|uvx?|pipx|add|--with)\s[^\n|;&`]*?(?<![\w./{<-])['\"]?corank(?![\w./-])(?:\[[\w,]+\])?"
)
"""An installer, and corank as a package of an index: no path, no wheel, no other word that begins so."""


@pytest.mark.parametrize(
    ("line", "by_name"),
    [
        ("pip install corank", True),
        ("python -m pip install -U 'corank[train]'", True),
        ("uv add corank", True),
        ("pip install '.[train]'", False),
        ("pip install 'corank-0.1.0-py3-none-any.whl[train]'", False),
        ("pip install /src/corank", False),
        ("pip install --editable ./corank", False),
    ],
)
def test_a_line_that_installs_by_name_is_found(line: str, by_name: bool) -> None:
    assert bool(BY_NAME.search(line)) == by_name


def test_no_file_installs_corank_by_its_name() -> None:
    kinds = (
        "*.md",
        "*.py",
        "*.ipynb",
        "*.yaml",
        "*.yml",
        "*.html",
        "*.js",
        "*.toml",
        "*Containerfile",
        "scripts/*",
    )
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *kinds]
    ended = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip("no checkout by git")
    files = [name for name in ended.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 500
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in files
        if name != str(Path(__file__).relative_to(ROOT))
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").split("\n"), 1)
        if BY_NAME.search(line)
    ]
    assert not found, "\n".join(found)
