"""The manifest of a checkpoint: its facts, and type and shape of its tensors; read without torch."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict, Field, model_validator

from corank.core.artifact import MANIFEST, File, FileName, Manifest
from corank.core.errors import CheckpointError, CorankError
from corank.core.settings import Settings
from corank.distributed.row_shards import ALL_BUCKETS, BUCKETS, RowShards
from corank.training.checkpoints.facts import check_facts

if TYPE_CHECKING:
    from corank.training.checkpoints.checkpoint import Checkpoint

Number = Literal[
    "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"
]
"""The types of numbers that a checkpoint may have, by their names in torch."""
Size = Annotated[int, Ge(0), Le(2**48)]


class StoredTensor(Settings):
    """Type and shape of a checkpoint's tensor."""

    dtype: Number
    shape: Annotated[list[Size], Field(max_length=8)]
    """Of the whole tensor."""
    table: bool
    """Whether its rows are those of a table: each file has the rows of some buckets. Others are in the first file."""

    def stored_shape(self, buckets: range) -> tuple[int, ...]:
        """The shape in a file that has some buckets."""
        if not self.table or buckets == ALL_BUCKETS:
            return tuple(self.shape)
        return (RowShards(self.shape[0]).depth, len(buckets), *self.shape[1:])


class CheckpointManifest(Manifest):
    """The manifest of a checkpoint."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # figures may be infinite

    error: ClassVar[type[CorankError]] = CheckpointError
    missing: ClassVar[str] = "no such checkpoint; train first"
    remedy: ClassVar[str] = "delete it and train again"

    kind: str = "checkpoint"
    format: int = 2
    files: dict[FileName, File] = Field({}, max_length=BUCKETS)
    facts: dict[str, Any]
    """Everything that is no tensor."""
    tensors: dict[str, StoredTensor]

    @model_validator(mode="after")
    def _check_whole(self) -> "CheckpointManifest":
        expected = {shard_file(rank, self.ranks) for rank in range(self.ranks)}
        if self.files.keys() != expected:
            odd = min(self.files.keys() ^ expected)
            raise ValueError(f"files: '{odd[:200]}' is missing, or is not one of {self.ranks} ranks")
        for name, tensor in self.tensors.items():
            if tensor.table and not tensor.shape:
                raise ValueError(f"tensors: '{name[:200]}' is called a table and has no rows")
        check_facts(self.facts)
        return self

    @property
    def ranks(self) -> int:
        """The processes that wrote it."""
        return len(self.files)

    @classmethod
    def outline(cls, checkpoint: "Checkpoint") -> "CheckpointManifest":
        """The manifest of a checkpoint without its files. Its values are copied where a training changes them."""
        tensors = {
            name: StoredTensor.model_validate(
                {
                    "dtype": str(checkpoint.dtype(name)).removeprefix("torch."),
                    "shape": list(checkpoint.shape(name)),
                    "table": name in checkpoint.tables,
                }
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
