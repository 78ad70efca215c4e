"""Docstrings as Markdown, and those that stand below the fields of a class."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache

from docs_site.pages import escape

SECTIONS = ("Args", "Returns", "Raises", "Yields", "Example", "Examples", "Attributes")


def render(docstring: str | None) -> str:
    """Write a docstring as Markdown: sections become lists, examples become blocks of code."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    blocks = [_section(name, body) if name else _prose(body) for name, body in _sections(lines)]
    return "\n\n".join(block for block in blocks if block)


def first_line(docstring: str | None) -> str:
    """The first paragraph of a docstring, as one line of Markdown."""
    return escape(" ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split()))


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Cut a docstring: its prose has the name "", each section its title."""
    name, body = "", list[str]()
    for line in lines:
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            yield name, body
            name, body = title, []
        elif name and line and not line.startswith(" "):
            yield name, body
            name, body = "", [line]
        else:
            body.append(line)
    yield name, body


def _prose(lines: list[str]) -> str:
    """Paragraphs; a paragraph that is indented is code."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    return "\n\n".join(
        _code(block) if block.startswith("    ") else escape(block) for block in blocks if block
    )


def _code(text: str) -> str:
    """A block of code, in Python if it can be parsed as such."""
    text = textwrap.dedent(text).strip("\n")
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "yaml" if re.match(r"[\w.-]+:", text) else "text"
    if text.startswith(">>> "):
        language = "pycon"
    return f"```{language}\n{text}\n```"


def _section(name: str, lines: list[str]) -> str:
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    if name.startswith("Example"):
        return f"**Example**\n\n{_code(text)}"
    title = {"Args": "Arguments"}.get(name, name)
    entries = re.split(r"\n(?=\S)", text)
    if name in ("Args", "Raises", "Attributes") and all(re.match(r"[\w*, ]+:", entry) for entry in entries):
        items = [re.match(r"([\w*, ]+):\s*(.*)", entry, re.DOTALL) for entry in entries]
        listed = [f"- `{item[1]}`: {escape(' '.join(item[2].split()))}" for item in items if item]
        return f"**{title}**\n\n" + "\n".join(listed)
    return f"**{title}**\n\n{escape(' '.join(text.split()))}"


@cache
def field_docstrings(owner: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those that it is derived from, by field."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        if kind.__module__.startswith(("corank.", "corank_lab.")):
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
            assert isinstance(body, ast.ClassDef)
            found |= dict(_documented(body))
    return found


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            yield node.target.id, inspect.cleandoc(after.value.value)
