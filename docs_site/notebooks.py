"""Notebooks as pages: each is executed when the site is built, and its outputs are shown as it made them.

What was executed is kept, and shown again as long as the notebook and all that it runs stay the same.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from html import unescape
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from docs_site.pages import ROOT

SECONDS = 3600
"""After which a cell, or the start of the kernel, has failed."""
FENCE = "~~~~"


def read_notebook(path: Path) -> Any:
    """Read a notebook as it is."""
    import nbformat

    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def execute(path: Path) -> Any:
    """Execute a notebook in a kernel of its own, in a temporary folder, without touching the user's profile.

    Args:
        path: the notebook; the file is left as it is.

    Returns the notebook with its outputs. Raises CellExecutionError, which shows the cell and its error.
    """
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = read_notebook(path)
    with TemporaryDirectory() as folder:
        own = {name: f"{folder}/{name}" for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
        with patch.dict(os.environ, own):
            options: dict[str, Any] = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), SECONDS)
            options |= {"extra_arguments": ["--log-level=ERROR"], "resources": {"metadata": {"path": folder}}}
            # sockets of files: no port is opened
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
            NotebookClient(notebook, kernel_name="python3", config=config, **options).execute()
    return notebook


def keep_executed(path: Path, folder: Path, run: Callable[[Path], Any] = execute) -> Any:
    """Return a notebook with its outputs: those that are kept, else those of its execution, which are kept then.

    Args:
        path: the notebook; the file is left as it is.
        folder: where outputs are kept, by a digest of the notebook and of what it runs.
        run: executes it.

    Raises as `run` does.
    """
    import nbformat

    kept = folder / f"{path.stem}-{_digest(path)}.ipynb"
    if not kept.is_file():
        notebook = run(path)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{path.stem}-*"):
            old.unlink()
        partial = kept.with_suffix(".partial")
        nbformat.write(notebook, partial)  # type: ignore[no-untyped-call]
        partial.rename(kept)
    return read_notebook(kept)


def _digest(path: Path) -> str:
    """Hash a notebook, the package, and the names and versions of all other packages and of Python."""
    sources = [
        path,
        *sorted(file for file in (ROOT / "corank").rglob("*") if file.is_file() and file.suffix != ".pyc"),
    ]
    installed = sorted({f"{one.name} {one.version}" for one in distributions()})
    parts = [file.read_bytes() for file in sources] + [line.encode() for line in [sys.version, *installed]]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def to_page(notebook: Any, name: str) -> tuple[str, dict[str, str]]:
    """Write an executed notebook as Markdown.

    Args:
        notebook: with its outputs.
        name: of its file, without `.ipynb`.

    Returns the page, and the content of the files that it shows, by name beside the page: plots and framed pages.
    """
    files: dict[str, str] = {}
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(_fenced(cell.source, "python"))
            parts += [shown for output in cell.outputs for shown in _show(output, cell.source, name, files)]
    download = f'<a href="{name}.ipynb" download>Download the notebook</a>'
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, download, rest.strip(), *parts[1:]]) + "\n", files


def _show(output: Any, source: str, name: str, files: dict[str, str]) -> Iterator[str]:
    """An output in the richest form that it has."""
    data = {"text/plain": output.text} if output.output_type == "stream" else output.data
    if "text/markdown" in data:
        yield data["text/markdown"]
    elif "image/svg+xml" in data:
        file = f"{name}-{len(files) + 1}.svg"
        files[file] = data["image/svg+xml"]
        yield f"![Figure of {source.splitlines()[-1]}]({file})"
    elif "text/html" in data:
        html = data["text/html"]
        if framed := re.match(r'\s*<iframe srcdoc="([^"]*)"', html):
            file = f"{name}-{len(files) + 1}.html"
            files[file] = unescape(framed[1])
            html = f'<iframe src="{file}" title="A page in a frame" loading="lazy"></iframe>'
        html = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)  # of polars; the site has its own
        html = re.sub(r"<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>", html)  # polars quotes texts
        # one line: a blank one would end the block of HTML
        yield f'<div class="notebook-output">{" ".join(html.split())}</div>'
    else:
        yield _fenced(data["text/plain"])


def _fenced(text: str, language: str = "text") -> str:
    return f"{FENCE}{language}\n{text.rstrip()}\n{FENCE}"
