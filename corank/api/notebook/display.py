"""The output of a notebook's cell, which IPython's own display updates: no widgets are needed."""

import sys
from importlib import import_module
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class CellOutput:
    """HTML in the output of a cell, which is shown when it is made and replaced later."""

    def __init__(self, text: str) -> None:
        self._display: Any = import_module("IPython.display").DisplayHandle()  # every notebook has it
        self._display.display(_Html(text))

    def update(self, text: str) -> None:
        """Show other HTML in its place."""
        self._display.update(_Html(text))


class _Html:
    """HTML that a notebook shows; elsewhere its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text
