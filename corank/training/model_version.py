"""The version of a model: a hash of what a bundle of it computes with; without torch."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from corank.core.calibration import Platt
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predictions import Calibrators
from corank.training.config.config import Config

if TYPE_CHECKING:
    from corank.training.checkpoints.checkpoint import Checkpoint
    from corank.training.checkpoints.stored_weights import StoredWeights


def model_version(
    config: Config, packed: PackedDataset, weights: "Checkpoint | StoredWeights", calibrators: Calibrators
) -> str:
    """A hash of weights, encoders, calibrators and schema: 16 hex digits."""
    digest = hashlib.sha256()
    for name in weights.names:
        digest.update(f"{name} {weights.shape(name)}".encode())
        for piece in weights.pieces(name):
            digest.update(np.ascontiguousarray(piece).reshape(-1).data)
    for part in packed.encoder_files:
        digest.update(part)
    plain = config.model_dump(mode="json", by_alias=True)
    schema = [plain["features"], plain["stages"], {s: _plain(c) for s, c in calibrators.items()}]
    if config.export.lowered:
        schema.append(dict(config.export.lowered))  # two bundles of one version score alike
    digest.update(json.dumps(schema, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _plain(calibrators: dict[str, Platt]) -> dict[str, dict[str, float]]:
    return {label: asdict(platt) for label, platt in calibrators.items()}
