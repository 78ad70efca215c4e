"""The other libraries, each at a pinned version, in an environment of their own, and a process in it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from corank.core.errors import DataError

PACKAGES = (
    "torch-rechub==0.9.0",
    "fuxictr==2.3.10",
    "lightgbm==4.7.0",
    "numpy==2.4.6",
    "pandas==3.1.1",
    "polars==2.1.0",
    "ray==2.60.0",
    "scikit-learn==1.9.1",
)
"""In addition to torch, whose version is corank's, so that speed is compared on the same kernels."""
ROOT = Path(__file__).resolve().parents[2]


def environment() -> Path:
    """Make the environment once, in the user's cache under a name by its versions. Returns its Python.

    Raises DataError if pip fails.
    """
    packages = [*PACKAGES, f"torch=={torch.__version__.partition('+')[0]}"]
    versions = "\n".join([sys.version, *packages])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corank"
    folder = cache / f"peers-{hashlib.sha256(versions.encode()).hexdigest()[:12]}"
    python, made = folder / "bin" / "python", folder / "made.txt"
    if made.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted installation
    venv.create(folder, with_pip=False)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run([*install, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{folder}: pip could not install {', '.join(packages)}: {done.stderr.strip()}")
    made.write_text(versions, encoding="utf-8")
    return python


class PeerProcess:
    """A worker of the environment, which answers one request at a time."""

    def __init__(self, python: Path, log: Path, threads: int = 1) -> None:
        """`log` takes what the libraries print."""
        code = "from benchmarks.peers.foreign.worker import serve; serve()"
        own = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": str(threads),
        }
        with log.open("a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [str(python), "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=own,
                text=True,
            )

    def ask(self, do: str, **request: Any) -> Any:
        """Return the worker's answer. Raises RuntimeError with its traceback if it failed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do} | request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended with {self.process.wait()} at {request}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
