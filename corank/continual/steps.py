"""Steps of a period, each of which leaves one file: a step whose file is there is done, and is not done again."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corank.core.errors import DataError
from corank.core.files import atomic_file

BEGIN = "begin"
"""The step that says what the others are made of."""


@dataclass
class PeriodSteps:
    """The folder of a period, with a JSON file a step that is done."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step; of a step that was done before a kill, what it took then."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Begin a period, or go on with it; what was made of other facts, such as another config, is removed.

        Raises DataError if a file of it is damaged.
        """
        if self._path(BEGIN).exists() and self._read(BEGIN)["result"] != facts:
            shutil.rmtree(self.folder)
        if not self._path(BEGIN).exists():
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            self._write(BEGIN, facts, 0.0)

    def do(self, name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step, or read what it found when it was done. Its result is what JSON can hold."""
        if not self.is_done(name):
            began = time.perf_counter()
            found = step()
            self._write(name, found, time.perf_counter() - began)
        held = self._read(name)
        self.seconds[name] = held["seconds"]
        result: dict[str, Any] = held["result"]
        return result

    def find(self, name: str) -> dict[str, Any]:
        """Return what a step that is done found. Raises DataError if its file is damaged."""
        result: dict[str, Any] = self._read(name)["result"]
        return result

    def is_done(self, name: str) -> bool:
        """Whether a step has left its file."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, name: str, result: dict[str, Any], seconds: float) -> None:
        with atomic_file(self._path(name)) as partial:
            partial.write_text(json.dumps({"seconds": round(seconds, 3), "result": result}, indent=1))

    def _read(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        try:
            held = json.loads(path.read_bytes())
            if isinstance(held["result"], dict) and isinstance(held["seconds"], float):
                return dict(held)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise DataError(f"{path}: damaged; remove {self.folder}, and the period is tried again")
