"""Options and output that several commands share."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE")]


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
