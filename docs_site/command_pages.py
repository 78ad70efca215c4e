"""Reference of the command line: a page a command, from the parser itself."""

from collections.abc import Iterator

from cyclopts import App

from corank.cli.main import build_app, list_commands
from docs_site.pages import Page, escape, table

FOLDER = "reference/cli"


def command_pages() -> Iterator[Page]:
    """The overview of all commands, and a page of each."""
    app = build_app()
    commands = list(walk(app, "corank"))
    rows = [
        (f"[`{name}`]({_file(name)})", escape(command.help.split("\n\n")[0].replace("\n", " ")))
        for name, command in commands
    ]
    text = (
        "# Command line\n\nGenerated from the parser. Exit status: 0; 1 for a mistake that the message names; 2 "
        "for wrong usage; 3 if rows, or a period, were refused; 130 after Ctrl-C; 141 if "
        "nobody reads the output.\n\n"
        f"{table(('command', 'what it does'), rows)}\n\n## Options before a command\n\n{app.help_epilogue}\n"
    )
    yield Page(f"{FOLDER}/README.md", "Overview", text)
    for name, command in commands:
        yield Page(f"{FOLDER}/{_file(name)}", name.removeprefix("corank "), _text(name, command))


def walk(group: App, name: str) -> Iterator[tuple[str, App]]:
    """All commands without sub-commands, with their full names, in the order of the help."""
    order = [word for commands in list_commands().values() for word in commands]
    for word in sorted(_words(group), key=lambda word: order.index(word) if word in order else len(order)):
        if _words(group[word]):
            yield from walk(group[word], f"{name} {word}")
        else:
            yield f"{name} {word}", group[word]


def _words(group: App) -> list[str]:
    """The names of the commands of a group; none of a command."""
    return [word for word in group if not word.startswith("-")]


def _file(name: str) -> str:
    return f"{name.removeprefix('corank ').replace(' ', '-')}.md"


def _text(name: str, command: App) -> str:
    title, _, rest = command.generate_docs(output_format="markdown").partition("\n")
    word = title.removeprefix("# ")
    usage = f"```console\n{word}"
    return f"# {name}\n{rest.replace(usage, f'```text{chr(10)}{name}', 1)}"
