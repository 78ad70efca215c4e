"""A training state or a trained model as one file: tensors, facts, and a digest over both.

The format is safetensors, which holds no code. A file is written beside its name, forced to disk, then renamed: a
reader finds the old one or the new one, never half.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save_file
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.core.files import atomic_file


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and facts of one file."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """Everything that is no tensor, as JSON values."""

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all. Raises CheckpointError, the old file untouched, if the disk refuses."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts, sort_keys=True)
    try:
        with atomic_file(path) as partial:
            save_file(tensors, partial, {"facts": facts, "digest": _digest(tensors, facts)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}; free some space and resume") from None


def load(path: Path) -> Checkpoint:
    """Read a file and prove it whole. Raises CheckpointError if it is absent, cut short or altered."""
    try:
        # in one read: safetensors' own reader opens the path once for names and again for tensors, and a training
        # that replaces the file in between would give it half of each
        content = path.read_bytes()
        tensors = from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        held = header.get("__metadata__", {})
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CheckpointError(f"{path}: no such checkpoint; train first") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: damaged or no checkpoint ({error}); delete it and train again"
        ) from None
    if held.get("digest") != _digest(tensors, held.get("facts", "")):
        raise CheckpointError(f"{path}: its contents do not match its digest; delete it and train again")
    return Checkpoint(tensors, json.loads(held["facts"]))


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
