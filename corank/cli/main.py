"""The command line: parses, calls, prints.

Exit status 0; 1: a mistake of the user; 2: wrong usage; 3: refused; 141: nobody reads what it prints.
"""

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from cyclopts import App, CycloptsError, CycloptsPanel, Group, Parameter
from rich.console import Console
from rich.markup import escape

from corank import MODULES
from corank.core.errors import CorankError, OtherRankError, PluginError, UsageError
from corank.core.lazy import explain_missing
from corank.core.machine_errors import INTERRUPTED, describe_machine_error, was_interrupted
from corank.core.package import installed_packages
from corank.core.registry import PLUGINS, load_environment_plugins, load_plugins
from corank.core.removed import REMOVED

WRONG_USAGE = 2
"""The exit status for a command or option that there is not, or without a command."""
UNREAD = 128 + signal.SIGPIPE
"""The exit status if the reader of the output ends first: what a shell says of any program in a pipe."""
_OWN = {
    "Data": "simulate join check pack",
    "Train": "train track tune experiment",
    "Judge": "evaluate compare report explain",
    "Ship": "export refresh conformance compare-cases vectors predict request rank",
    "Serve": "",
    "Every day": "",
}
"""By what a user does: commands of this package, of which each is the function of `corank` of that name; the headings
of other packages, in order."""


def own_commands() -> dict[str, dict[str, str]]:
    """By heading of the help, the commands of this package, and the dotted name of the function of each.

    A word for several commands, such as `import`, has its own name, not a function.
    """
    own = {
        heading: {
            name: f"{MODULES[name.replace('-', '_')]}.{name.replace('-', '_')}" for name in names.split()
        }
        for heading, names in _OWN.items()
    }
    own["Data"] = {"import": "import"} | own["Data"]
    return own


def list_commands() -> dict[str, dict[str, str]]:
    """The commands of all packages, as in `own_commands`. Raises PluginError if a package cannot be imported."""
    listed = own_commands()
    for package in installed_packages().values():
        for heading, commands in package.commands.items():
            found = listed.setdefault(heading, {})
            for words, function in commands.items():
                word, _, rest = words.partition(" ")
                found[word] = word if rest else function
    return listed


def build_app(console: Console | None = None, commands: Mapping[str, Mapping[str, str]] | None = None) -> App:
    """The parser of commands, of all by default; a command is loaded when it is called. The console gets help."""
    app = App(
        console=console,
        name="corank",
        help="Train the pre-ranker and the ranker of a funnel as one model, measure them, ship them.",
        help_epilogue="--plugin MODULE imports a module that registers parts, and may be repeated; CORANK_PLUGINS "
        "names more, with commas.",
        version=_version,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    for heading, functions in (list_commands() if commands is None else commands).items():
        group = Group.create_ordered(heading)
        for n, (name, function) in enumerate(functions.items()):
            path = f"corank.cli.commands:{function}"
            app.command(path, name=name, group=group, help=_summary(function), sort_key=n)
    app.register_install_completion_command(
        name="--install-completion", help="Complete commands in this shell."
    )
    return app


def _version() -> str:
    from corank.cli.version import describe_version  # which imports what has a format

    return describe_version()


def run(words: Sequence[str]) -> int:
    """Load plug-ins, run a command, and return its exit status. Raises CorankError, CycloptsError."""
    plugins, words = _take_plugins(words)
    load_environment_plugins()
    if plugins:
        load_plugins(plugins, Path.cwd())
        # so that processes started by the command load them, too
        os.environ[PLUGINS] = ",".join([*filter(None, [os.environ.get(PLUGINS)]), *plugins])
    words = _join_dashes(words)
    _refuse_removed(words)
    commands = _find_commands(words)
    # which writes help as one piece at its end, so that `--help | head -1` breaks no pipe
    with Console() as console:
        app = build_app(console, commands)
        functions = {function for listed in commands.values() for function in listed.values()}
        if not words or (len(words) == 1 and words[0] in functions):  # a group without a command
            app([*words, "--help"])
            return WRONG_USAGE
        status = app(words, exit_on_error=False, error_console=Console(stderr=True))
    return status if isinstance(status, int) else 0


def _take_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--plugin MODULE` off the front, since a plug-in may add commands, which the parser must know."""
    plugins, rest = list[str](), list(words)
    while rest and (rest[0] == "--plugin" or rest[0].startswith("--plugin=")):
        _, equals, module = rest.pop(0).partition("=")
        if not equals and not rest:
            raise UsageError("--plugin: name a module")
        plugins.append(module if equals else rest.pop(0))
    return plugins, rest


def _join_dashes(words: Sequence[str]) -> list[str]:
    """Join a lone `-`, which the parser takes for an option, to the option whose value it is: `--access-log -`."""
    joined = list[str]()
    for word in words:
        if word == "-" and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += "=-"
        else:
            joined.append(word)
    return joined


def _refuse_removed(words: Sequence[str]) -> None:
    """Raise UsageError for an option that earlier versions had."""
    for option in (word.partition("=")[0] for word in words[1:]):
        if (way := REMOVED.get(f"{words[0]} {option}")) is not None:
            raise UsageError(f"{option} is not an option any more: {way}")


def _find_commands(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """The command that is called, alone: to list all loads other packages and reads all summaries; else all.

    Raises UsageError for a command that there is not; the parser would load all commands to say so.
    """
    word = words[0] if words else "--help"
    for listed in (own_commands, list_commands):
        for heading, functions in listed().items():
            if word in functions:
                return {heading: {word: functions[word]}}
    if word in REMOVED:
        raise UsageError(f"there is no command '{word}' any more; {REMOVED[word]}")
    if not word.startswith("-"):
        near = get_close_matches(word, _names(), 1)
        hint = f"did you mean '{near[0]}'?" if near else "`corank --help` lists them"
        raise UsageError(f"there is no command '{word}'; {hint}")
    return list_commands()


def _names() -> set[str]:
    """The commands of the first level."""
    return {name for functions in list_commands().values() for name in functions}


def _summary(function: str) -> str:
    """The first line of a function's docstring, out of its source, so that help loads no command; of a group its own.

    Raises PluginError if a package names a function that there is not.
    """
    if function == "import":
        return "Turn public logs into tables and a config."
    module, _, name = function.rpartition(".")
    if not module:
        return next(one.groups[name] for one in installed_packages().values() if name in one.groups)
    spec = find_spec(module)
    text = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    first = re.search(rf'^def {name}\(.*?^    """(.+?)(?:"""|\n)', text, re.DOTALL | re.MULTILINE)
    if first is None:
        raise PluginError(
            f"a package names '{function}' as a command, and there is no such function with a docstring"
        )
    return first[1]


def main() -> None:
    """Run the command line; a CorankError, and an error of the machine, becomes its message and exit status 1."""
    # OpenMP threads that spin on a core shared with another process made a step 25 times slower; sleeping threads
    # are a tenth slower on an idle machine, where OMP_WAIT_POLICY=active helps
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.stdout is None:  # closed by the caller
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        try:
            status = run(sys.argv[1:])
        finally:
            sys.stdout.flush()
        sys.exit(status)
    except CycloptsError:  # which has been printed
        sys.exit(WRONG_USAGE)
    except OtherRankError:  # which reports it
        _fail("")
    except UsageError as error:
        Console(stderr=True).print(CycloptsPanel(escape(str(error))))
        sys.exit(WRONG_USAGE)
    except CorankError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of the output has seen enough
        _fail("", UNREAD)
    except KeyboardInterrupt:  # before the command itself has begun
        sys.exit(INTERRUPTED)
    except Exception as error:
        if was_interrupted(error):
            sys.exit(INTERRUPTED)
        message = describe_machine_error(error) or explain_missing(error, f"corank {_called()}".rstrip())
        if message is None:
            raise
        _fail(str(message))


def _called() -> str:
    """The first-level command that is called, or ""."""
    return next((word for word in sys.argv[1:] if word in _names()), "")


def _fail(message: str, status: int = 1) -> None:
    """End with an exit status, and a message unless it is empty, even if nobody reads stdout or stderr any more."""
    with suppress(OSError):
        if message and sys.stderr is not None:
            sys.stderr.write(f"error: {message}\n")
            sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        # what is still buffered would be written at exit, and raise there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
