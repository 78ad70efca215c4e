"""The command line: parses, calls, prints. Exit status 0; 1: a mistake of the user; 2: wrong usage; 3: refused."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from corank.cli.daily import daily
from corank.cli.datasets import importing, simulating
from corank.cli.evaluating import evaluating
from corank.cli.experiments import searching
from corank.cli.options import INTERRUPTED, describe_machine_error, was_interrupted
from corank.cli.serve import service
from corank.cli.stores import serving
from corank.cli.training import checking, train, training
from corank.core.errors import CorankError, OtherRankError
from corank.core.lazy import explain_missing
from corank.core.registry import PLUGINS, load_environment_plugins, load_plugins

app = typer.Typer(
    help="Train the pre-ranker and the ranker of a funnel as one model, measure them, ship them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def global_options(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Import a module that registers parts; repeatable. CORANK_PLUGINS names more, with commas.",
        ),
    ] = None,
) -> None:
    """Load plug-ins, and name them in the environment so that processes started by a command load them, too."""
    load_environment_plugins()
    if plugin:
        load_plugins(plugin, Path.cwd())
        os.environ[PLUGINS] = ",".join([*filter(None, [os.environ.get(PLUGINS)]), *plugin])


app.add_typer(importing, name="import")


app.add_typer(simulating)
app.add_typer(checking)
app.add_typer(training)
app.add_typer(train)
app.add_typer(daily)
app.add_typer(evaluating)
app.add_typer(searching)
app.add_typer(serving)
app.add_typer(service)


def main() -> None:
    """Run the command line; a CorankError, and an error of the machine, becomes its message and exit status 1."""
    # OpenMP threads that spin on a core shared with another process made a step 25 times slower; sleeping threads
    # are a tenth slower on an idle machine, where OMP_WAIT_POLICY=active helps
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.stdout is None:  # closed by the caller
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OtherRankError:  # which reports it
        _fail("")
    except CorankError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of the output has seen enough
        _fail("")
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
    commands = vars(typer.main.get_command(app))["commands"]
    return next((word for word in sys.argv[1:] if word in commands), "")


def _fail(message: str) -> None:
    """End with exit status 1, and a message unless it is empty, even if nobody reads stdout or stderr any more."""
    with suppress(OSError):
        if message and sys.stderr is not None:
            sys.stderr.write(f"error: {message}\n")
            sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        # what is still buffered would be written at exit, and raise there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
