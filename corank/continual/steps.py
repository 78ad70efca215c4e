"""Steps of a period, each of which writes one file: a step whose file exists is not done again."""

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
"""The step that records the inputs of the others."""


@dataclass
class PeriodSteps:
    """The folder of a period, with a JSON file a step that is done."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step; of a step that was done before a kill, what it took then."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Begin or continue a period; results of other facts, such as another config, are removed.

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
        """Do a step, or read its result if it is done. The result is JSON."""
        if not self.is_done(name):
            began = time.perf_counter()
            outcome = step()
            self._write(name, outcome, time.perf_counter() - began)
        document = self._read(name)
        self.seconds[name] = document["seconds"]
        result: dict[str, Any] = document["result"]
        return result

    def find(self, name: str) -> dict[str, Any]:
        """Return the result of a step that is done. Raises DataError if its file is damaged."""
        result: dict[str, Any] = self._read(name)["result"]
        return result

    def is_done(self, name: str) -> bool:
        """Whether a step has written its file."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, name: str, result: dict[str, Any], seconds: float) -> None:
        with atomic_file(self._path(name)) as partial:
            partial.write_text(json.dumps({"seconds": round(seconds, 3), "result": result}, indent=1))

    def _read(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        try:
            document = json.loads(path.read_bytes())
            if isinstance(document["result"], dict) and isinstance(document["seconds"], float):
                return dict(document)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise DataError(f"{path}: damaged; remove {self.folder}, and the period is tried again")
