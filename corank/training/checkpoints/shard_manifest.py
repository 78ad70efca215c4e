"""The manifest of a checkpoint of several ranks: its facts, its tensors, size and checksum of every file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Le
from pydantic import Field, model_validator

from corank.bundle.manifest import Part
from corank.core.errors import CheckpointError, ConfigError
from corank.core.files import atomic_file
from corank.core.settings import Settings, validate
from corank.core.storage.untrusted_files import parse_json, read_regular_file
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.facts import check_facts

MANIFEST = "manifest.json"
MOST_BYTES = 1 << 26
"""Bytes of a manifest, at most."""
NUMBERS: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32)
}
"""The types of numbers that a checkpoint may have."""

Size = Annotated[int, Ge(0), Le(2**48)]


class StoredTensor(Settings):
    """Type and shape of a checkpoint's tensor."""

    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32"]
    shape: Annotated[list[Size], Field(max_length=8)]
    """Of the whole tensor."""
    table: bool
    """Whether its rows are those of a table: each file has the rows of some buckets. Others are in the first file."""

    def stored_shape(self, buckets: range) -> tuple[int, ...]:
        """The shape in a file that has some buckets: a table of N rows is (N / 256, buckets, ...) there."""
        if not self.table:
            return tuple(self.shape)
        return (RowShards(self.shape[0]).depth, len(buckets), *self.shape[1:])


class ShardManifest(Settings):
    """All that a reader must know of a checkpoint of several ranks."""

    format: Literal[1]
    content: str = Field(pattern=r"^[0-9a-f]{8}$")
    """The folder of the files."""
    ranks: Annotated[int, Ge(1), Le(BUCKETS)]
    facts: dict[str, Any]
    """Everything that is no tensor."""
    tensors: dict[str, StoredTensor]
    files: dict[str, Part]
    """The file of each rank."""
    digest: str
    """Of the manifest itself, with this field empty."""

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        expected = {shard_file(rank, self.ranks) for rank in range(self.ranks)}
        if self.files.keys() != expected:
            odd = min(self.files.keys() ^ expected)
            raise ValueError(f"files: '{odd[:200]}' is missing, or is not one of {self.ranks} ranks")
        for name, tensor in self.tensors.items():
            if tensor.table and not tensor.shape:
                raise ValueError(f"tensors: '{name[:200]}' is called a table and has no rows")
        return self

    @classmethod
    def of(cls, outline: Mapping[str, Any], content: str, files: Mapping[str, Part]) -> Self:
        """The manifest of a checkpoint whose files are written; `outline` is from `outline_checkpoint`."""
        named = {name: part.model_dump() for name, part in files.items()}
        plain = {"format": 1, **outline, "content": content, "ranks": len(files), "files": named}
        return validate(cls, plain | {"digest": _digest(plain)}, MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a folder. Raises CheckpointError if it is absent, damaged or altered."""
        path = folder / MANIFEST
        try:
            plain = parse_json(read_regular_file(folder, MANIFEST, MOST_BYTES))
            manifest = validate(cls, plain, MANIFEST)
            check_facts(manifest.facts)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"{path}: no such checkpoint; train first") from None
        except (OSError, ValueError, ConfigError) as error:
            reason = str(error).replace("\n", "; ")
            raise CheckpointError(
                f"{path}: damaged or no checkpoint ({reason}); delete {folder.name} and train again"
            ) from None
        if manifest.digest != _digest(plain):
            raise CheckpointError(
                f"{path}: its contents do not match its digest; delete {folder.name} and train again"
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Write the manifest of a folder, whole or not at all. Raises OSError."""
        with atomic_file(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(self.model_dump(), indent=1), encoding="utf-8")


def outline_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a manifest says of an unwritten checkpoint: its facts and its tensors."""
    tensors = {
        name: {
            "dtype": str(checkpoint.dtype(name)).removeprefix("torch."),
            "shape": list(checkpoint.shape(name)),
            "table": name in checkpoint.tables,
        }
        for name in checkpoint.names
    }
    return {"facts": checkpoint.facts, "tensors": tensors}


def shard_file(rank: int, ranks: int) -> str:
    """The name of the file that a rank writes."""
    return f"shard-{rank:05d}-of-{ranks:05d}.safetensors"


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain | {"digest": ""}, sort_keys=True).encode()).hexdigest()
