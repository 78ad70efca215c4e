"""Docstrings as Markdown, and what griffe reads of sources without importing them."""

import re
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import griffe

from docs_site.pages import escape

TITLES = {"parameters": "Arguments", "returns": "Returns", "raises": "Raises", "yields": "Yields"}
STARS: Mapping[griffe.ParameterKind | None, str] = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}
LONGEST = 88
"""Characters of a signature on one line."""


def render(docstring: str | None) -> str:
    """Write a docstring as Markdown: sections become lists, examples become blocks of code."""
    sections = griffe.Docstring(docstring or "").parse("google", returns_multiple_items=False, warnings=False)
    return "\n\n".join(map(_section, sections))


def first_line(docstring: str | None) -> str:
    """The first paragraph of a docstring, as one line of Markdown."""
    return escape(" ".join(griffe.Docstring(docstring or "").value.split("\n\n")[0].split()))


def _section(section: griffe.DocstringSection) -> str:
    if isinstance(section, griffe.DocstringSectionText):
        return _prose(section.value)
    if isinstance(section, griffe.DocstringSectionAdmonition):  # such as `Example:`
        return f"**{section.title}**\n\n{_code(section.value.description)}"
    items = [
        (str(getattr(item, "name", "") or item.annotation or ""), escape(" ".join(item.description.split())))
        for item in section.value
    ]
    listed = "\n".join(f"- `{name}`: {text}" if name else text for name, text in items)
    return f"**{TITLES.get(section.kind.value, section.kind.value.capitalize())}**\n\n{listed}"


def _prose(text: str) -> str:
    """Paragraphs; a paragraph that is indented is code."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_code(block) if block.startswith("    ") else escape(block) for block in blocks)


def _code(text: str) -> str:
    """A block of code: what a session of Python shows, or a part of a config."""
    return f"```{'pycon' if text.startswith('>>> ') else 'yaml'}\n{textwrap.dedent(text)}\n```"


@cache
def _module(name: str) -> griffe.Module:
    file = Path(str(sys.modules[name].__file__))
    return griffe.visit(name, file, file.read_text(encoding="utf-8"))


def source(part: Any) -> Any:
    """What the source says of a class or function: a `griffe.Class` or `griffe.Function`."""
    return _module(part.__module__)[part.__qualname__]


@cache
def field_docstrings(owner: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those that it is derived from, by field."""
    return {
        name: field.docstring.value
        for kind in reversed(owner.__mro__)
        if kind.__module__.startswith(("corank.", "corank_serve.", "corank_continual.", "corank_lab."))
        for name, field in source(kind).attributes.items()
        if field.docstring and "property" not in field.labels
    }


def signature(function: griffe.Function) -> str:
    """How a function is called, as a block of code; if it is long, a line a parameter."""
    written = function.signature()
    if len(written) > LONGEST:
        parameters = [p for p in function.parameters if p.name not in ("self", "cls")]
        listed = "".join(f"    {_parameter(parameter)},\n" for parameter in parameters)
        written = f"{function.name}(\n{listed}) -> {function.returns}"
    return f"```python\n{written}\n```"


def _parameter(parameter: griffe.Parameter) -> str:
    default = "" if parameter.default is None else f" = {parameter.default}"
    return f"{STARS.get(parameter.kind, '')}{parameter.name}: {parameter.annotation}{default}"
