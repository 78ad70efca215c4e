"""Reference of the command line: a page a command, from the parser itself."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from corank.cli.main import app
from docs_site.docstrings import render
from docs_site.pages import Page, escape, table

FOLDER = "reference/cli"


def command_pages() -> Iterator[Page]:
    """The overview of all commands, and a page of each."""
    root = typer.main.get_command(app)
    commands = list(walk(root, "corank"))
    rows = [
        (f"[`{name}`]({_file(name)})", escape((command.help or "").split("\n\n")[0]))
        for name, command in commands
    ]
    text = (
        "# Command line\n\nGenerated from the parser. Exit status: 0; 1 for a mistake that the message names; 2 "
        f"for wrong usage; 130 after Ctrl-C.\n\n{table(('command', 'what it does'), rows)}\n\n"
        f"## Options before a command\n\n{_options(root)}\n"
    )
    yield Page(f"{FOLDER}/README.md", "Overview", text)
    for name, command in commands:
        yield Page(f"{FOLDER}/{_file(name)}", name.removeprefix("corank "), _text(name, command))


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All commands without sub-commands, with their full names; as Typer's own copy of click has them."""
    if hasattr(command, "list_commands"):
        context = typer.Context(command, info_name=name)
        for inner in command.list_commands(context):
            yield from walk(command.get_command(context, inner), f"{name} {inner}")
    else:
        yield name, command


def _file(name: str) -> str:
    return f"{name.removeprefix('corank ').replace(' ', '-')}.md"


def _text(name: str, command: Any) -> str:
    usage = _plain(" ".join([name, *command.collect_usage_pieces(typer.Context(command, info_name=name))]))
    blocks = [f"# {name}", render(command.help), f"```text\n{usage}\n```"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if arguments:
        context = typer.Context(command)
        rows = [
            (f"`{_plain(' '.join(a.get_usage_pieces(context)))}`", escape(a.help or "")) for a in arguments
        ]
        blocks.append(f"## Arguments\n\n{table(('argument', 'what it is'), rows)}")
    if any(p.param_type_name == "option" for p in command.params):
        blocks.append(f"## Options\n\n{_options(command)}")
    return "\n\n".join(blocks) + "\n"


def _options(command: Any) -> str:
    records = [
        option.get_help_record(typer.Context(command))
        for option in command.params
        if option.param_type_name == "option" and not option.hidden
    ]
    return table(("option", "what it does"), [(f"`{names}`", escape(text)) for names, text in records])


def _plain(usage: str) -> str:
    """Names of arguments without the braces that Typer puts around them."""
    return re.sub(r"\{([^{}]+)\}", r"\1", usage)
