"""A page of the site before it is rendered, and what the generators of pages share."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Page:
    """A generated page."""

    path: str
    """Within docs/, such as `reference/config/train.md`."""
    title: str
    """Its name in the navigation."""
    text: str
    """Markdown."""


def escape(text: str) -> str:
    """Keep text from being read as HTML or emphasis, outside spans of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if n % 2 else re.sub(r"([*|])", r"\\\1", part.replace("<", "&lt;"))
        for n, part in enumerate(parts)
    )


def cell(text: str) -> str:
    """Make text a cell of a table: one line, without a bar that would end the cell; in code a bar ends none."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace(r"\|", "|") if n % 2 else re.sub(r"(?<!\\)\|", r"\\|", part)
        for n, part in enumerate(parts)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def relative(page: str, target: str) -> str:
    """The link from a page to another file; both within docs/."""
    return os.path.relpath(target, PurePosixPath(page).parent) if page != target else ""
