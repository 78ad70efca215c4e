"""Options and output that several commands share; errors of the machine, such as a full disk, as one line."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from corank.core.errors import ConfigError, DataError
from corank.core.objects import require_local


def local_path(text: str) -> Path:
    """Read a path that must be of this machine. Raises StorageError for a URL."""
    return require_local(text)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Sign = Annotated[
    list[Path] | None,
    typer.Option(
        parser=local_path,
        metavar="KEY",
        help="Private ed25519 key, a PEM file, that signs the version; may be repeated.",
    ),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
        parser=local_path,
        metavar="PUBLIC_KEY",
        help="Take only versions that this ed25519 key, or one of its file, has signed; may be repeated.",
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        metavar="CHANGE|TIME",
        help="What the table of items contains: a change of the store, as `corank store log` numbers it, or a time. "
        "Later upserts stay on top; all do by default.",
    ),
]
TaskWorkers = Annotated[int, typer.Option(min=1, help="Processes that work at the same time.")]
EngineName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What runs the tasks: in_line, pool (processes of this machine), ray, or a plug-in's. "
        "Default: pool if there are several workers.",
    ),
]
EngineAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a cluster, for an engine that takes one, such as HOST:PORT."),
]
BundlePath = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="The folder of a bundle, or its URL in object storage.")
]


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    print_text(json.dumps(document, indent=1, allow_nan=False))


def print_text(text: str) -> None:
    """Print JSON text to stdout."""
    sys.stdout.write(text + "\n")


Events = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILES",
        help="A table of data.events that the bundle makes histories or priors of; repeatable.",
    ),
]


def read_names(given: list[str]) -> dict[str, str]:
    """Read `NAME=FILES` options. Raises ConfigError for one of another form."""
    tables = {}
    for text in given:
        name, equals, files = text.partition("=")
        if not (name and equals and files):
            raise ConfigError(f"expected NAME=FILES, such as clicks=clicks/*.parquet; received {text!r}")
        tables[name] = files
    return tables


ContinueFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PACKED",
        help="Packed data, or a run, to go on from: only later rows are packed, into a folder of their own.",
    ),
]
Fixed = Annotated[bool, typer.Option("--fixed", help="With --from: keep vocabularies as they are.")]
Repack = Annotated[
    str | None,
    typer.Option(
        "--repack",
        metavar="DAY",
        help="With --from: pack rows from DAY on again, with those that came late, from the packing before it.",
    ),
]


def describe_machine_error(error: Exception) -> str | None:
    """Say in one line what the machine lacks or refuses; None if the error is none of the machine's.

    Example:
        >>> describe_machine_error(FileNotFoundError(2, "No such file or directory", "log.csv"))
        'log.csv: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    # polars and torch name the system's error in their own
    system = re.search(r"\(os error (\d+)\)", str(error))
    if system and type(error).__module__.startswith("polars"):
        return os.strerror(int(system[1]))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "not enough memory"
    return None


REFUSED = 3
"""The exit status if new rows break a threshold of the config, or the newest period did not go live."""
INTERRUPTED = 128 + signal.SIGINT
"""The exit status after Ctrl-C."""


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error, as where it stops a module of C that was being loaded."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


@contextmanager
def name_write_errors(out: Path) -> Iterator[None]:
    """Raise DataError, which names the folder, if the block cannot write to it."""
    try:
        yield
    except Exception as error:
        reason = describe_machine_error(error)
        if reason is None:
            raise
        raise DataError(
            f"{out}: cannot be written: {reason}; free space there, or name another folder"
        ) from None
