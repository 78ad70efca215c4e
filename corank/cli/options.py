"""Options and output that several commands share."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Sign = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="KEY", help="Private ed25519 key, a PEM file, that signs the version; may be repeated."
    ),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
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
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE")]


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
