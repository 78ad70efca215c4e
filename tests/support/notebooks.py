"""The notebooks of the documentation, executed once a session."""

from functools import cache
from pathlib import Path
from typing import Any

from docs_site.notebooks import execute
from tests.support.shared import shared

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


@cache
def executed(path: Path) -> Any:
    """A notebook with its outputs, which the workers of a session share."""
    import nbformat

    def make(folder: Path) -> None:
        nbformat.write(execute(path), folder / path.name)  # type: ignore[no-untyped-call]

    return nbformat.read(shared(f"notebook-{path.stem}", make) / path.name, as_version=4)  # type: ignore[no-untyped-call]
