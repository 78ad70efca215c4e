"""Trials on disk: a JSON file each, named by a hash of its config, its packed data and corank's version.

Each is written atomically when its training has ended, so a kill loses one trial.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.analysis.trials.arm import identity
from corank.core.files import write_text
from corank.core.version import corank_version
from corank.data.dataset import PackedDataset
from corank.training.config import Config


@dataclass(frozen=True)
class TrialFiles:
    """The trials of one packed dataset, of one format."""

    folder: Path
    packed: PackedDataset
    kind: str | int
    """Format of what a trial holds; trials of another are not read."""

    def load(self, config: Config) -> dict[str, Any] | None:
        """The stored values of a config's trial; None if there are none, or they are damaged or of another config."""
        try:
            document = json.loads(self._path(config).read_text(encoding="utf-8"))
            return document if document.pop("identity") == self._identity(config) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, config: Config, values: dict[str, Any]) -> None:
        """Write the values of a config's trial. Raises CorankError."""
        document = {"identity": self._identity(config)} | values
        write_text(self._path(config), json.dumps(document, allow_nan=False))

    def _identity(self, config: Config) -> str:
        packed = self.packed
        parts = [self.kind, corank_version(), identity(config), packed.manifest.fingerprint, packed.codes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def _path(self, config: Config) -> Path:
        return self.folder / f"{self._identity(config)}.json"
