"""The notebooks of the documentation, executed once a session."""

from functools import cache
from pathlib import Path
from typing import Any

from docs_site.notebooks import keep_executed
from tests.support.shared import shared

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


@cache
def executed(path: Path) -> Any:
    """A notebook with its outputs, which the workers of a session share."""
    kept = shared(f"notebook-{path.stem}", lambda folder: keep_executed(path, folder))
    return keep_executed(path, kept)
