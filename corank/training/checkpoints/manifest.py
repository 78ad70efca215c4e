"""The manifest of a checkpoint: its facts, and type and shape of its tensors; read without torch."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from corank.core.artifact import MANIFEST, Manifest
from corank.core.errors import CheckpointError, CorankError
from corank.core.settings import Settings

if TYPE_CHECKING:
    from corank.training.checkpoints.checkpoint import Checkpoint


class StoredTensor(Settings):
    """Type and shape of a checkpoint's tensor."""

    dtype: str
    """Its name in torch."""
    shape: list[int]
    """Of the whole tensor."""
    table: bool
    """Whether its rows are those of a table: each file has the rows of some buckets. Others are in the first file."""


class CheckpointManifest(Manifest):
    """The manifest of a checkpoint."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # figures may be infinite

    error: ClassVar[type[CorankError]] = CheckpointError
    missing: ClassVar[str] = "no such checkpoint; train first"
    remedy: ClassVar[str] = "train again with --overwrite"

    kind: str = "checkpoint"
    format: int = 2
    facts: dict[str, Any]
    """Everything that is no tensor."""
    tensors: dict[str, StoredTensor]

    @property
    def ranks(self) -> int:
        """The processes that wrote it."""
        return len(self.files)

    @classmethod
    def outline(cls, checkpoint: "Checkpoint") -> "CheckpointManifest":
        """The manifest of a checkpoint without its files. Its values are copied where a training changes them."""
        tensors = {
            name: StoredTensor(
                dtype=str(checkpoint.dtype(name)).removeprefix("torch."),
                shape=list(checkpoint.shape(name)),
                table=name in checkpoint.tables,
            )
            for name in checkpoint.names
        }
        return cls.model_construct(facts=json.loads(json.dumps(checkpoint.facts)), tensors=tensors)


def shard_file(rank: int, ranks: int) -> str:
    """The name of the file that a rank writes."""
    return f"shard-{rank:05d}-of-{ranks:05d}.safetensors"


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, written to its end."""
    return (folder / MANIFEST).is_file()


def remove(folder: Path) -> None:
    """Remove a checkpoint if there is one. Raises OSError if its manifest cannot be removed."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
