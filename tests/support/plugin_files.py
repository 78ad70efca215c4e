"""Plug-ins of a test, as files that are imported and forgotten afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corank.core.registry import Registry
from corank.testing.parts import registered


@contextmanager
def own_imports(folder: Path) -> Iterator[None]:
    """A while whose changes of Python's path, and whose modules of a folder, are taken back."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
        for name, module in [*sys.modules.items()]:
            if str(getattr(module, "__file__", None)).startswith(f"{folder}/"):
                del sys.modules[name]


@contextmanager
def plugin_file(path: Path, text: str, registry: Registry[Any]) -> Iterator[str]:
    """The name of a plug-in written to a file; what it registers is forgotten afterwards, as it is itself."""
    path.write_text(text, encoding="utf-8")
    with own_imports(path.parent), registered(registry):
        yield path.stem


IMPORTER = '''
from datetime import date
from pydantic import Field
from corank.core.errors import DataError
from corank.datasets.importer import IMPORTERS, Importer

@IMPORTERS.register("mylog")
class MyLog(Importer):
    """Import the shop's own log."""

    source_help = "One file of the shop."
    first_day: int = Field(7, alias="from", ge=1, description="The day to begin with.")
    until: date | None = None
    all_rows: bool = Field(False, description="Keep them all.")
    limit: float | None = None

    def write(self, source, out, report):
        if not source.is_file():
            raise DataError(f"{source}: no such file")
        report(f"from {self.first_day}, until {self.until}, all {self.all_rows}, limit {self.limit}")
        out.mkdir()
        (out / "config.yaml").write_text("name: mylog", encoding="utf-8")
'''
"""A plug-in with an importer."""
