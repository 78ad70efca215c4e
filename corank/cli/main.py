"""The command line: parses, calls, prints.

Exit status 0; 1: a mistake of the user; 2: wrong usage; 3: refused; 141: nobody reads what it prints.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from cyclopts import App, CycloptsError, CycloptsPanel, Group, Parameter
from rich.console import Console
from rich.markup import escape

from corank import MODULE_OF
from corank.core.errors import CorankError, OtherRankError, UsageError
from corank.core.lazy import explain_missing
from corank.core.machine_errors import INTERRUPTED, describe_machine_error, was_interrupted
from corank.core.registry import PLUGINS, load_environment_plugins, load_plugins
from corank.core.version import corank_version

WRONG_USAGE = 2
"""The exit status for a command or option that there is not, or without a command."""
UNREAD = 128 + signal.SIGPIPE
"""The exit status if the reader of the output ends first: what a shell says of any program in a pipe."""
COMMANDS = {
    "Data": ["simulate", "check", "pack"],
    "Train": ["train", "track", "tune", "study", "experiment"],
    "Judge": ["evaluate", "compare", "compare-served", "report", "explain"],
    "Ship": ["export", "refresh", "conformance", "compare-cases", "publish", "vectors", "predict", "users"],
    "Serve": ["serve", "token", "request", "rank", "replay"],
    "Every day": ["daily"],
}
"""By what a user does: commands, of which each is the function of `corank` of that name."""
GONE = {"serve": "--rate-limit", "token": "--rate"}
"""Commands, and the option of a rate that each had."""
MODULES = MODULE_OF | {"serve": "corank.cli.serve"}
"""Where the function of each command is defined."""
NAMES = ["import", "store", "follow", *(name for commands in COMMANDS.values() for name in commands)]
"""The commands of the first level."""


def build_app(console: Console | None = None) -> App:
    """The parser of all commands; a command is loaded when it is called. Help is printed to the console."""
    app = App(
        console=console,
        name="corank",
        help="Train the pre-ranker and the ranker of a funnel as one model, measure them, ship them.",
        help_epilogue="--plugin MODULE imports a module that registers parts, and may be repeated; CORANK_PLUGINS "
        "names more, with commas.",
        version=lambda: f"corank {corank_version()}",
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    groups = {name: Group.create_ordered(name) for name in COMMANDS}
    for group, commands in COMMANDS.items():
        for n, name in enumerate(commands):
            function = name.replace("-", "_")
            path = f"corank.cli.commands:{MODULES[function]}.{function}"
            app.command(path, name=name, group=groups[group], help=_summary(function), sort_key=n)
    for name, help_text, group in (
        ("import", "Turn public logs into tables and a config.", "Data"),
        ("store", "List a store's versions and its log; promote, withdraw, roll back, prune.", "Ship"),
        ("follow", "Follow a topic of Kafka: items or users into a store, or the log.", "Every day"),
    ):
        app.command(f"corank.cli.commands:{name}", name=name, group=groups[group], help=help_text)
    app.register_install_completion_command(
        name="--install-completion", help="Complete commands in this shell."
    )
    return app


def run(words: Sequence[str]) -> int:
    """Load plug-ins, run a command, and return its exit status. Raises CorankError, CycloptsError."""
    plugins, words = _take_plugins(words)
    load_environment_plugins()
    if plugins:
        load_plugins(plugins, Path.cwd())
        # so that processes started by the command load them, too
        os.environ[PLUGINS] = ",".join([*filter(None, [os.environ.get(PLUGINS)]), *plugins])
    words = _join_dashes(words)
    _require_known(words)
    # which writes help as one piece at its end, so that `--help | head -1` breaks no pipe
    with Console() as console:
        app = build_app(console)
        if words in ([], ["import"], ["store"], ["follow"]):  # a group without a command
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


def _require_known(tokens: Sequence[str]) -> None:
    """Raise UsageError for a command that there is not; the parser would load all commands to say so.

    Also for an option that there is no more, to say what to use in its place.
    """
    if tokens and not tokens[0].startswith("-") and tokens[0] not in NAMES:
        near = get_close_matches(tokens[0], NAMES, 1)
        hint = f"did you mean '{near[0]}'?" if near else "`corank --help` lists them"
        raise UsageError(f"there is no command '{tokens[0]}'; {hint}")
    gone = GONE.get(tokens[0]) if tokens else None
    if gone in [token.partition("=")[0] for token in tokens]:
        from corank.serving.http.serve_settings import RATES_GONE

        raise UsageError(f"{gone}: {RATES_GONE}")


def _summary(name: str) -> str:
    """The first line of a function's docstring, out of its source, so that help loads no command."""
    spec = find_spec(MODULES[name])
    assert spec is not None and spec.origin is not None, name
    text = Path(spec.origin).read_text(encoding="utf-8")
    first = re.search(rf'^def {name}\(.*?^    """(.+?)(?:"""|\n)', text, re.DOTALL | re.MULTILINE)
    assert first is not None, name
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
    """The command that is called, of those of the first level; "" if there is none."""
    return next((word for word in sys.argv[1:] if word in NAMES), "")


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
