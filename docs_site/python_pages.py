"""Reference of the Python API: a page for each public name of `corank`, and one of `corank.config`."""

from collections.abc import Iterator, Sequence
from typing import Any

import griffe

import corank
from corank import config
from docs_site.docstrings import describe_call, field_docstrings, first_line, render, source
from docs_site.pages import Page, escape, relative, table

FOLDER = "reference/python"
CONFIG_MODULE = f"{FOLDER}/config_module.md"


def python_pages() -> Iterator[Page]:
    """The overview of all public names, and a page of each."""
    names = [name for name in corank.__all__ if not name.startswith("__")]
    rows = [(f"[`corank.{name}`]({name}.md)", first_line(getattr(corank, name).__doc__)) for name in names]
    config_page = relative(f"{FOLDER}/README.md", CONFIG_MODULE)
    rows.append((f"[`corank.config`]({config_page})", first_line(config.__doc__)))
    text = (
        "# Python\n\nEvery name is loaded when it is first used, so `import corank` is quick. A mistake in what you "
        f"pass raises a `CorankError` that says what to do.\n\n{table(('name', 'what it does'), rows)}\n"
    )
    yield Page(f"{FOLDER}/README.md", "Overview", text)
    for name in names:
        yield Page(f"{FOLDER}/{name}.md", name, _text(name, getattr(corank, name)))


def config_module_page(described: Sequence[Page]) -> Page:
    """The page of `corank.config`: its classes, each with a link to its keys, and its functions.

    Args:
        described: the pages that have the keys of settings classes.
    """
    classes, functions = [], []
    for name in vars(config)["__all__"]:
        part = getattr(config, name)
        if isinstance(part, type):
            homes = (page.path for page in described if f"{{#{name.lower()}}}" in page.text)
            home = next(homes, None)  # none of what is a value, such as a range of time
            link = f"[`{name}`]({relative(CONFIG_MODULE, home)}#{name.lower()})" if home else f"`{name}`"
            classes.append((link if name != "Config" else "[`Config`](Config.md)", first_line(part.__doc__)))
        else:
            functions.append(f"## {name}\n\n{describe_call(source(part), part.__doc__)}")
    blocks = ["# corank.config", render(config.__doc__), table(("class", "what it is"), classes), *functions]
    return Page(CONFIG_MODULE, "config", "\n\n".join(blocks) + "\n")


def _text(name: str, part: Any) -> str:
    of = source(part)
    if isinstance(of, griffe.Function):
        return f"# corank.{name}\n\n{describe_call(of, part.__doc__)}\n"
    blocks = [f"# corank.{name}", render(part.__doc__)]
    if fields := field_docstrings(part):
        rows = [(f"`{field}`", escape(text)) for field, text in fields.items() if not field.startswith("_")]
        blocks.append(f"## Attributes\n\n{table(('attribute', 'what it is'), rows)}")
    for member in of.members.values():
        if member.name.startswith("_") or not member.docstring:
            continue
        if isinstance(member, griffe.Function):
            blocks += [f"## {member.name}", describe_call(member, member.docstring.value)]
        elif "property" in member.labels:
            blocks += [f"## {member.name}", render(member.docstring.value)]
    return "\n\n".join(blocks) + "\n"
