"""Docstrings as Markdown, and what griffe reads of sources without importing them."""

import re
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import griffe

from docs_site.pages import escape, table

TITLES = {"parameters": "Arguments", "returns": "Returns", "raises": "Raises", "yields": "Yields"}
STARS: Mapping[griffe.ParameterKind | None, str] = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}
OWN = ("corank.", "corank_serve.", "corank_continual.", "corank_lab.")
"""How the names of corank's own modules begin."""


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
    listed = "\n".join(f"- {item}" if item.startswith("`") else item for item in _items(section))
    return f"**{TITLES.get(section.kind.value, section.kind.value.capitalize())}**\n\n{listed}"


def _items(section: griffe.DocstringSection) -> list[str]:
    """The entries of a section, each with its name, if it has one."""
    named = [
        (str(getattr(item, "name", "") or item.annotation or ""), escape(" ".join(item.description.split())))
        for item in section.value
    ]
    return [f"`{name}`: {text}" if name else text for name, text in named]


def _prose(text: str) -> str:
    """Paragraphs; a paragraph that is indented is code."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_code(block) if block.startswith("    ") else escape(block) for block in blocks)


def _code(text: str) -> str:
    """A block of code: what a session of Python shows, Python, or a part of a config."""
    text = textwrap.dedent(text)
    python = "python" if re.match(r"@|(class|def|with|for|from|import) |[\w.]+(\(| = )", text) else "yaml"
    return f"```{'pycon' if text.startswith('>>> ') else python}\n{text}\n```"


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
        if kind.__module__.startswith(OWN)
        for name, field in source(kind).attributes.items()
        if field.docstring and "property" not in field.labels
    }


def describe_call(function: griffe.Function, docstring: str | None) -> str:
    """Describe a function as Markdown: what it does, its example, a table of its parameters, then all else."""
    sections = griffe.Docstring(docstring or "").parse("google", returns_multiple_items=False, warnings=False)
    texts = [section.value for section in sections if isinstance(section, griffe.DocstringSectionText)]
    first, *more = re.split(r"\n\s*\n", "\n\n".join(texts).strip("\n"))
    examples = [section for section in sections if isinstance(section, griffe.DocstringSectionAdmonition)]
    listed = next((s.value for s in sections if isinstance(s, griffe.DocstringSectionParameters)), [])
    meanings = {item.name.lstrip("*"): item.description for item in listed}
    taken = [parameter for parameter in function.parameters if parameter.name not in ("self", "cls")]
    rows = [
        (
            f"`{STARS.get(parameter.kind, '')}{parameter.name}`",
            f"`{plain_type(parameter.annotation)}`" if parameter.annotation else "",
            _default(parameter),
            escape(" ".join(meanings.get(parameter.name, "").split())),
        )
        for parameter in taken
    ]
    blocks = [_prose(first), *map(_section, examples)]
    if rows:
        blocks.append(table(("parameter", "type", "default", "what it is"), rows))
    returned = [section for section in sections if isinstance(section, griffe.DocstringSectionReturns)]
    if function.returns and str(function.returns) != "None":
        text = " ".join(_items(returned[0])) if returned else ""
        blocks.append(f"**Returns** `{plain_type(function.returns)}`{': ' * bool(text)}{text}")
    if more:
        blocks.append(_prose("\n\n".join(more)))
    shown = (
        griffe.DocstringSectionText,
        griffe.DocstringSectionAdmonition,
        griffe.DocstringSectionParameters,
        griffe.DocstringSectionReturns,
    )
    blocks += [_section(section) for section in sections if not isinstance(section, shown)]
    return "\n\n".join(blocks)


def plain_type(annotation: object) -> str:
    """A type without what `Annotated` adds to it, and without quotes.

    Example:
        >>> plain_type('Annotated[ConfigSource | None, Option("CONFIG")]')
        'ConfigSource | None'
    """
    text = re.sub(r"""["']""", "", str(annotation))
    while begun := re.search(r"\bAnnotated\[", text):
        depth, end, comma = 1, begun.end(), 0
        while depth:
            depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(text[end], 0)
            comma = comma or (end if text[end] == "," and depth == 1 else 0)
            end += 1
        text = text[: begun.start()] + text[begun.end() : comma] + text[end:]
    return text


def _default(parameter: griffe.Parameter) -> str:
    """A parameter's default: nothing where a function that does nothing stands for none."""
    if parameter.default is None:
        return "" if parameter.kind in STARS else "required"
    return "" if "lambda" in str(parameter.default) else f"`{parameter.default}`"


def flatten(docstring: str) -> str:
    """Write a docstring as one line of Markdown, for the cell of a table; without examples."""
    parts = []
    for section in griffe.Docstring(docstring).parse("google", returns_multiple_items=False, warnings=False):
        if isinstance(section, griffe.DocstringSectionText):
            parts.append(escape(" ".join(section.value.split())))
        elif isinstance(section, griffe.DocstringSectionParameters):
            items = (f"`{item.name}`: {escape(' '.join(item.description.split()))}" for item in section.value)
            parts.append(" ".join(items))
        elif not isinstance(section, griffe.DocstringSectionAdmonition):
            title = TITLES.get(section.kind.value, section.kind.value.capitalize())
            parts.append(f"{title}: " + " ".join(_items(section)))
    return " ".join(parts)
