"""The files of a checkpoint that several ranks write: each has the rows of its buckets of every table.

They are what `torch.distributed.checkpoint` writes through its safetensors writer, and its reader reads them: a table
is (N / 256, buckets, ...), and the file's header says where that lies in the whole. corank writes and reads them
itself, since that writer sends its plans as pickles and holds every shard once more in memory.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corank.bundle.manifest import Part
from corank.core.errors import CheckpointError
from corank.core.files import atomic_file
from corank.core.storage.untrusted_files import open_regular_file
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.mapped_tensors import map_tensors
from corank.training.checkpoints.shard_manifest import NUMBERS, ShardManifest, shard_file
from corank.training.checkpoints.split_table import ALL_BUCKETS, SplitTable, TablePart

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
