"""What a run's model predicts of its own packed data, kept in the run's folder for the next command; without torch.

    RUN/predictions/SPLIT    the SHA-256 of key and logits, 32 bytes, then the logits: fp32, (labels of all stages, C)

The key is a hash of all that the logits depend on: weights, config, packed data, and the code that predicts. What else
predictions have is in the packed data. A file is written whole or not at all, in place of the one of other weights, and
is but a copy of what can be predicted again: one that cannot be read, written or believed is no error.

Letters: C candidates of the split.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np

from corank.core.files import CHECKSUM, read_regular_file, unseal, write_sealed
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predictions import Logits, Predictions, read_whole
from corank.training.checkpoints.manifest import CheckpointManifest
from corank.training.run import PREDICTIONS, Run


@dataclass(frozen=True)
class KeptPredictions:
    """The place of the predictions of a run on a split of its own packed data."""

    folder: Path | None
    """None if nothing is kept: of a run that was fetched from object storage, whose copy stays as it is, and of stages
    without a file of their code."""
    key: str
    packed: PackedDataset
    split: str
    labels: tuple[tuple[str, str], ...]
    """Stage and label of each row of logits."""

    @classmethod
    def of(cls, run: Run, packed: PackedDataset, split: str, model: CheckpointManifest) -> Self:
        """Find the place of the predictions of a trained model, whose manifest has the checksums of its weights."""
        stages = run.config.stages
        code = hash_code(type(stage).__module__ for stage in stages)
        facts = [model.digest, packed.manifest.digest, split, version("torch"), code]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        labels = tuple((stage.name, label) for stage in stages for label in stage.labels)
        folder = None if run.is_copy or code is None else run.folder / PREDICTIONS
        return cls(folder, key, packed, split, labels)

    def read(self) -> Predictions | None:
        """Read the predictions; None if there are none of this key, whole and unchanged."""
        if self.folder is None:
            return None
        count = sum(shard.candidates for shard in self.packed.manifest.splits[self.split])
        size = len(self.labels) * count * np.dtype(np.float32).itemsize
        try:
            content = unseal(self.key, read_regular_file(self.folder, self.split, CHECKSUM + size))
        except OSError:
            return None
        if content is None:
            return None
        logits: Logits = {}
        rows = np.frombuffer(content, np.float32).reshape(len(self.labels), count)
        for (stage, label), row in zip(self.labels, rows, strict=True):
            logits.setdefault(stage, {})[label] = row
        return read_whole(self.packed, self.split, logits)

    def keep(self, predictions: Predictions) -> None:
        """Keep predictions, if the run's folder can be written."""
        if self.folder is None:
            return
        rows = np.stack([predictions.logits[stage][label] for stage, label in self.labels])
        with suppress(OSError):
            write_sealed(self.folder / self.split, self.key, rows.data.cast("B"))


def hash_code(modules: Iterable[str]) -> str | None:
    """Hash the code of corank and of the packages of some modules, which may change without a version.

    None if one has no file, such as that of a notebook.
    """
    packages = {name.partition(".")[0] for name in (__name__, *modules)}
    hashes = [_hash_package(name) for name in sorted(packages)]
    return None if None in hashes else " ".join(map(str, hashes))


@cache
def _hash_package(name: str) -> str | None:
    module = sys.modules[name]
    folders, file = getattr(module, "__path__", ()), getattr(module, "__file__", None)
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    files = files or ([Path(file)] if file else [])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else None
