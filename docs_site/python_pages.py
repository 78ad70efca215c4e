"""Reference of the Python API: a page for each public name of `corank`, and one of `corank.config`."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import corank
from corank import config
from docs_site.docstrings import field_docstrings, first_line, render
from docs_site.pages import Page, escape, relative, table

FOLDER = "reference/python"
CONFIG_MODULE = f"{FOLDER}/config_module.md"


def python_pages() -> Iterator[Page]:
    """The overview of all public names, and a page of each."""
    names = [name for name in corank.__all__ if not name.startswith("__")]
    rows = [(f"[`corank.{name}`]({name}.md)", first_line(getattr(corank, name).__doc__)) for name in names]
    rows.append(
        (f"[`corank.config`]({relative(f'{FOLDER}/README.md', CONFIG_MODULE)})", first_line(config.__doc__))
    )
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
    for name in config.__all__:
        part = getattr(config, name)
        if isinstance(part, type):
            homes = (page.path for page in described if f"{{#{name.lower()}}}" in page.text)
            home = next(homes, None)  # none of what is a value, such as a range of time
            link = f"[`{name}`]({relative(CONFIG_MODULE, home)}#{name.lower()})" if home else f"`{name}`"
            classes.append((link if name != "Config" else "[`Config`](Config.md)", first_line(part.__doc__)))
        else:
            functions.append(f"## {name}\n\n{signature(part, name)}\n\n{render(part.__doc__)}")
    blocks = ["# corank.config", render(config.__doc__), table(("class", "what it is"), classes), *functions]
    return Page(CONFIG_MODULE, "config", "\n\n".join(blocks) + "\n")


def _text(name: str, part: Any) -> str:
    blocks = [f"# corank.{name}"]
    if not isinstance(part, type):
        return "\n\n".join([*blocks, signature(part, name), render(part.__doc__)]) + "\n"
    blocks.append(render(part.__doc__))
    fields = field_docstrings(part)
    if fields:
        rows = [(f"`{field}`", escape(text)) for field, text in fields.items() if not field.startswith("_")]
        blocks.append(f"## Attributes\n\n{table(('attribute', 'what it is'), rows)}")
    for member, value in vars(part).items():
        if member.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and function.__doc__:
            shown = "" if isinstance(value, property) else signature(function, member)
            blocks.append("\n\n".join(filter(None, [f"## {member}", shown, render(function.__doc__)])))
    return "\n\n".join(blocks) + "\n"


def signature(function: Any, name: str) -> str:
    """The parameters of a function as its source gives them, a line each, as a block of code."""
    node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    assert isinstance(node, ast.FunctionDef)
    one_line = f"{name}({ast.unparse(node.args)})"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if len(one_line + result) <= 88:
        return f"```python\n{one_line}{result}\n```"
    return f"```python\n{name}(\n{''.join(_parameters(node.args))}){result}\n```"


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Each parameter on a line of its own."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    yield from (_parameter(a, default) for a, default in zip(plain, defaults, strict=True))
    if arguments.vararg:
        yield _parameter(arguments.vararg, None, "*")
    elif arguments.kwonlyargs:
        yield "    *,\n"
    yield from (
        _parameter(a, default) for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    )
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, None, "**")


def _parameter(argument: ast.arg, default: ast.expr | None, stars: str = "") -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"    {stars}{argument.arg}{kind}{f' = {ast.unparse(default)}' if default is not None else ''},\n"
