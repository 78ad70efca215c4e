"""A process of the other libraries' environment: a request a line on stdin, an answer a line on stdout, both JSON."""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.foreign.rows import Rows

MODULES = {"lightgbm": "trees", "fuxictr": "fuxictr_models", "rechub": "rechub_models"}


class Worker:
    """State of a process between requests: rows that were read, and trainings that are timed."""

    def __init__(self) -> None:
        self.timed: dict[str, Any] = {}

    def fit(self, name: str, rows: str, settings: dict[str, Any], seed: int, scratch: str, out: str) -> None:
        """Train model `name`, LIBRARY or LIBRARY_MODEL, and write its scores to `out`, whole or not at all."""
        library, _, model = name.partition("_")
        scores = self._module(library).fit(Rows.load(Path(rows)), model, settings, seed, Path(scratch))
        path = Path(out)
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.savez(unfinished, **scores)
        unfinished.rename(path)

    def prepare(
        self, key: str, name: str, loader: str, rows: str, settings: dict[str, Any], scratch: str
    ) -> None:
        """Prepare a training that `time` continues; `loader` is `memory` or `own`."""
        library, _, model = name.partition("_")
        made = self._module(library).Timed(Rows.load(Path(rows)), model, loader, settings, Path(scratch))
        self.timed[key] = made

    def time(self, key: str, steps: int) -> tuple[float, int]:
        """Seconds and rows of some steps of a training."""
        seconds, trained = self.timed[key].run(steps)
        return seconds, trained

    def _module(self, library: str) -> Any:
        return importlib.import_module(f"benchmarks.peers.foreign.{MODULES[library]}")


def serve() -> None:
    """Answer until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(worker, request.pop("do"))(**request)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
