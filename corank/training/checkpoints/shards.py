"""The files of a checkpoint that several ranks write: each has the rows of its buckets of every table.

They are what `torch.distributed.checkpoint` writes through its safetensors writer, and its reader reads them: a table
is (N / 256, buckets, ...), and the file's header says where that lies in the whole. corank writes and reads them
itself, since that writer sends its plans as pickles and holds every shard once more in memory. A manifest has the
facts, the tensors, and size and checksum of every file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

import torch
from annotated_types import Ge, Le
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corank.bundle.manifest import Part
from corank.core.errors import CheckpointError, ConfigError
from corank.core.files import atomic_file, open_regular_file, parse_json, read_regular_file
from corank.core.settings import Settings, validate
from corank.distributed.ranks import BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import (
    ALL_BUCKETS,
    Checkpoint,
    SplitTable,
    TablePart,
    check_facts,
    map_tensors,
)

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


CHUNK = 1 << 22
"""Bytes of a file read at once."""


def copy_shard(checkpoint: Checkpoint, rank: int, ranks: int) -> dict[str, Tensor]:
    """Copy what a rank writes of a checkpoint: its buckets of every table; the first rank's other tensors, too."""
    buckets = _buckets(rank, ranks)
    named = {
        name: table.take(buckets).view(RowShards(table.rows).depth, len(buckets), *table.shape[1:])
        for name, table in checkpoint.tables.items()
    }
    if rank == 0:
        # contiguous, whatever the views that the model has
        named |= {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()
        }
    return named


def write_shard(folder: Path, rank: int, ranks: int, tensors: dict[str, Tensor], tables: set[str]) -> Part:
    """Write a rank's file. Returns its size and checksum. Raises OSError, SafetensorError."""
    if not folder.is_dir():
        raise OSError(
            "no such folder on this machine; all ranks must see the run's folder on one file system"
        )
    offsets = {
        name: {"saved_offsets": [0, _buckets(rank, ranks).start, *[0] * (tensor.dim() - 2)]}
        if name in tables
        else {"saved_offsets": [0] * tensor.dim()}
        for name, tensor in tensors.items()
    }
    texts = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    with atomic_file(folder / shard_file(rank, ranks)) as partial:
        save_file(tensors, partial, texts)
        with partial.open("rb") as file:
            return _measure(file)


def load_shards(folder: Path, buckets: range = ALL_BUCKETS) -> Checkpoint:
    """Map the files of a checkpoint's folder that hold some buckets, and prove them whole.

    Raises CheckpointError, which names the file, if one is absent, cut short, altered or of another form.
    """
    while True:
        manifest = ShardManifest.read(folder)
        try:
            return _load(folder, manifest, buckets)
        except CheckpointError:
            # a training may have replaced the checkpoint since its manifest was read, and removed the files
            if ShardManifest.read(folder).content == manifest.content:
                raise


def _load(folder: Path, manifest: ShardManifest, buckets: range) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    parts: dict[str, list[TablePart]] = {name: [] for name, t in manifest.tensors.items() if t.table}
    for rank in range(manifest.ranks):
        rank_buckets = _buckets(rank, manifest.ranks)
        if rank and not (rank_buckets.start < buckets.stop and buckets.start < rank_buckets.stop):
            continue
        for name, tensor in _read_shard(folder, manifest, rank).items():
            if name in parts:
                parts[name].append(TablePart(rank_buckets, tensor.flatten(0, 1)))
            else:
                tensors[name] = tensor
    tables = {
        name: SplitTable(manifest.tensors[name].shape[0], tuple(table_parts))
        for name, table_parts in parts.items()
    }
    return Checkpoint(tensors, manifest.facts, tables)


def _read_shard(folder: Path, manifest: ShardManifest, rank: int) -> dict[str, Tensor]:
    """Map the tensors of a rank's file, and check them against the manifest."""
    name = f"{manifest.content}/{shard_file(rank, manifest.ranks)}"
    path, part = folder / name, manifest.files[shard_file(rank, manifest.ranks)]
    remedy = f"delete {folder.name} and train again"
    try:
        with open_regular_file(folder, name) as file:
            if _measure(file) != part:
                raise CheckpointError(
                    f"{path}: does not match its size and checksum in the manifest; {remedy}"
                )
            tensors, _ = map_tensors(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {remedy}") from None
    rank_buckets = _buckets(rank, manifest.ranks)
    expected = {
        name: (NUMBERS[tensor.dtype], tensor.stored_shape(rank_buckets))
        for name, tensor in manifest.tensors.items()
        if tensor.table or rank == 0
    }
    actual = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    odd = {name for name in expected | actual if expected.get(name) != actual.get(name)}
    if odd:
        one = min(odd)
        raise CheckpointError(
            f"{path}: {one}: expected {expected.get(one, 'none')}; found {actual.get(one, 'none')}; {remedy}"
        )
    return tensors


def _buckets(rank: int, ranks: int) -> range:
    return RowShards(BUCKETS, ranks).buckets(rank)


def _measure(file: BinaryIO) -> Part:
    """Compute size and checksum of an open file."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return Part(bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())
