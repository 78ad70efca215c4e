"""The Chinese pages say what the English ones say, as far as a test can see it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.zh-CN.md")), ROOT / "README.zh-CN.md"]
CODE = re.compile(r"^```(\w*)\n((?:.*\n)*?)```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)")


def english(page: Path) -> Path:
    """The page that a Chinese page translates."""
    return page.with_name(page.name.replace(".zh-CN", ""))


def outline(text: str) -> tuple[list[str], int, list[str], list[str]]:
    """Levels of headings, number of rows of tables, pictures, lines of code without comments."""
    blocks = [match[2] for match in CODE.finditer(text) if match[1] != "mermaid"]
    code = [re.sub(r"(^|\s+)# .*$", "", line).rstrip() for block in blocks for line in block.splitlines()]
    prose = CODE.sub("", text)
    return (
        re.findall(r"^#+(?= )", prose, re.MULTILINE),
        len(re.findall(r"^\|", prose, re.MULTILINE)),
        re.findall(r"\]\(([^)]+\.(?:svg|png))\)", prose),
        [line for line in code if line],
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name.partition(".")[0])
def test_a_chinese_page_follows_the_english_one(page: Path) -> None:
    """It has the same headings, tables and code, links to Chinese pages, and both name each other at the top."""
    text, original = (path.read_text(encoding="utf-8") for path in (page, english(page)))
    assert outline(text) == outline(original)
    linked = [page.parent / target for target in LINK.findall(text)]
    translated = [path for path in linked if path.with_suffix(".zh-CN.md").exists()]
    assert [path for path in translated if path != english(page)] == []
    assert f"[English]({english(page).name})" in text.split("\n\n")[1]
    assert f"[中文]({page.name})" in original.split("\n\n")[1]
