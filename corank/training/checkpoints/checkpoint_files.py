"""Checkpoints on disk: how one process and several ranks write them, and whether one is of a config and packed data.

A checkpoint is an artifact, `RUN/NAME/`, with a file of each process:

    shard-00000-of-00002.safetensors    the rows of rank 0's buckets of every table, and all other tensors
    shard-00001-of-00002.safetensors    the rows of rank 1's buckets

They are what `torch.distributed.checkpoint` writes through its safetensors writer, and its reader reads them. A table
of N rows is (N, ...) in the file of one process, and (N / 256, buckets, ...) in those of several; the file's header
says where that lies in the whole. corank writes and reads them itself, since that writer sends its plans as pickles and
holds every shard once more in memory.
"""

import json
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from pydantic import ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corank.core.artifact import (
    MANIFEST,
    ArtifactWriter,
    File,
    FileName,
    Manifest,
    new_content,
    open_folder,
)
from corank.core.errors import CheckpointError, ConfigError, CorankError
from corank.core.files import atomic_file, open_regular_file, parse_json, read_regular_file, sync
from corank.core.settings import Settings, validate
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import (
    ALL_BUCKETS,
    Checkpoint,
    SplitTable,
    TablePart,
    check_facts,
    map_tensors,
)
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain

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
    def outline(cls, checkpoint: Checkpoint) -> "CheckpointManifest":
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


def load(folder: Path, buckets: range = ALL_BUCKETS) -> Checkpoint:
    """Map a checkpoint and prove it whole, of tables at least the rows of some buckets.

    Raises CheckpointError, which names the file, if one is absent, cut short, altered or of another form.
    """

    def wanted(name: str) -> bool:
        rank, ranks = (int(number) for number in name.removesuffix(".safetensors").split("-")[1::2])
        own = _buckets(rank, ranks)
        return rank == 0 or (own.start < buckets.stop and buckets.start < own.stop)

    opened = open_folder(folder, CheckpointManifest, wanted=wanted)
    manifest, tensors = opened.manifest, dict[str, Tensor]()
    parts: dict[str, list[TablePart]] = {name: [] for name, t in manifest.tensors.items() if t.table}
    for rank in range(manifest.ranks):
        if not wanted(shard_file(rank, manifest.ranks)):
            continue
        for name, tensor in _read_shard(opened.folder, manifest, rank).items():
            if name in parts and manifest.ranks > 1:
                parts[name].append(TablePart(_buckets(rank, manifest.ranks), tensor.flatten(0, 1)))
            else:
                tensors[name] = tensor
    tables = {
        name: SplitTable(manifest.tensors[name].shape[0], tuple(shards))
        for name, shards in parts.items()
        if shards
    }
    return Checkpoint(tensors, manifest.facts, tables)


def _read_shard(folder: Path, manifest: CheckpointManifest, rank: int) -> dict[str, Tensor]:
    """Map the tensors of a rank's file, and check them against the manifest."""
    path, buckets = folder / shard_file(rank, manifest.ranks), _buckets(rank, manifest.ranks)
    try:
        with open_regular_file(folder, path.name) as file:
            tensors, _ = map_tensors(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {manifest.remedy}") from None
    expected = {
        name: (getattr(torch, tensor.dtype), tensor.stored_shape(buckets))
        for name, tensor in manifest.tensors.items()
        if tensor.table or rank == 0
    }
    actual = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if odd := {name for name in expected | actual if expected.get(name) != actual.get(name)}:
        one = min(odd)
        raise CheckpointError(
            f"{path}: {one}: expected {expected.get(one, 'none')}; found {actual.get(one, 'none')}; "
            f"{manifest.remedy}"
        )
    return tensors


def _buckets(rank: int, ranks: int) -> range:
    return RowShards(BUCKETS, ranks).buckets(rank)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint of one process, whole or not at all. Raises CheckpointError if the disk refuses."""
    named = {name: checkpoint.whole(name) for name in checkpoint.names}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def fill(content: Path) -> CheckpointManifest:
        write_shard(content, 0, 1, tensors)
        return CheckpointManifest.outline(checkpoint)

    ArtifactWriter.of(folder, CheckpointManifest).write(new_content(), fill)


def write_shard(content: Path, rank: int, ranks: int, tensors: dict[str, Tensor]) -> Path:
    """Write the file of a rank. Returns its path. Raises OSError."""
    path, start = content / shard_file(rank, ranks), _buckets(rank, ranks).start
    # only tables are in the files of ranks after the first, where `start` is not 0
    offsets = {
        name: {"saved_offsets": [start if axis == 1 else 0 for axis in range(tensor.dim())]}
        for name, tensor in tensors.items()
    }
    texts = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    try:
        save_file(tensors, path, texts)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    return path


POLL = 0.02
"""Seconds between checks for the files of other ranks."""


class CheckpointWriter:
    """Writes the checkpoints of a training, one after another.

    Example:
        writer = CheckpointWriter(ranks)
        writer.write(run.latest, checkpoint)
        ...
        writer.wait()
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        """`ranks`: those that train; this process alone unless given."""
        self.ranks = ranks or Ranks()
        self._writing: _ShardThread | None = None

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write a checkpoint in place of the one in a folder. A collective.

        Several ranks copy their parts and write them in the background: later steps do not change what is written. The
        facts and the tensors that are whole are those of rank 0.

        Raises CheckpointError if this one, or the one before it, cannot be written.
        """
        self.wait()
        if self.ranks.alone:
            save(folder, checkpoint)
            return
        try:
            content = self.ranks.share(_make_content(folder) if self.ranks.first else None, "checkpoint")
        except OSError as error:
            raise _unwritable(folder, self.ranks, error) from None
        self._writing = _ShardThread(folder / content, self.ranks, checkpoint)
        self._writing.start()

    def wait(self) -> None:
        """Wait until what was written last is on disk. A collective. Raises CheckpointError if it cannot be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait_for_shard()
            self.ranks.wait("checkpoint")
            writing.wait_for_end()


class _ShardThread(threading.Thread):
    """Writes a rank's file of a checkpoint; that of rank 0 then commits it, once all files are there."""

    def __init__(self, content: Path, ranks: Ranks, checkpoint: Checkpoint) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._content, self._ranks = content, ranks
        # not the tensors of the model, which keep changing
        self._manifest = CheckpointManifest.outline(checkpoint)
        self._shard = copy_shard(checkpoint, ranks.rank, ranks.world)
        self._written = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """Write, and keep the error if there is one."""
        try:
            self._write_shard()
            self._written.set()
            if self._ranks.first:
                self._commit()
        except Exception as error:  # it is raised where the training waits
            self._error = error
        finally:
            self._written.set()

    def wait_for_shard(self) -> None:
        """Wait until this rank's file is on disk. Raises CheckpointError."""
        self._written.wait()
        self._raise()

    def wait_for_end(self) -> None:
        """Wait until the manifest is written if this is rank 0. Raises CheckpointError."""
        self.join()
        self._raise()

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise _unwritable(self._content.parent, self._ranks, self._error) from None
        if self._error is not None:
            raise self._error

    def _write_shard(self) -> None:
        if not self._content.is_dir():
            raise OSError(
                "no such folder on this machine; all ranks must see the run's folder on one file system"
            )
        path = write_shard(self._content, self._ranks.rank, self._ranks.world, self._shard)
        self._shard.clear()
        sync(path)
        with path.open("rb") as file:
            measured = File.measure(file)
        with atomic_file(self._content / _note(self._ranks.rank)) as partial:
            partial.write_text(measured.model_dump_json(), encoding="utf-8")

    def _commit(self) -> None:
        """Commit the checkpoint once every rank has noted its file."""
        world = self._ranks.world
        files = {shard_file(rank, world): self._await_note(rank) for rank in range(world)}
        for rank in range(world):
            (self._content / _note(rank)).unlink()
        sync(self._content)
        writer = ArtifactWriter.of(self._content.parent, CheckpointManifest)
        writer.commit(self._content, self._manifest, files)

    def _await_note(self, rank: int) -> File:
        """Wait for a rank's file. If that rank fails, it raises, and ends this training."""
        path = self._content / _note(rank)
        while not path.is_file():
            threading.Event().wait(POLL)
        return validate(File, parse_json(read_regular_file(self._content, path.name, 1 << 12)), str(path))


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


def _note(rank: int) -> str:
    """The file in which a rank notes size and checksum of its file."""
    return f"shard-{rank:05d}.json"


def _make_content(folder: Path) -> str:
    """Make an empty folder for files. Returns its name."""
    content = ArtifactWriter.of(folder, CheckpointManifest).begin(new_content())
    sync(folder)
    sync(folder.parent)
    return content.name


def _unwritable(folder: Path, ranks: Ranks, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: cannot be written by rank {ranks.rank}: {error}; free some space and resume"
    )


MAY_CHANGE = {"packed", "train.tables", "baseline"}
"""Keys of a config that may change when a training continues: they say where data and weights lie, and what follows."""
AFTERWARDS = ("drift.", "export.")
"""Prefixes of keys that do not affect training, and that may change, too."""


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def load_matching(
    path: Path,
    parts: Sequence[str],
    config: Config,
    packed: PackedDataset,
    buckets: range = ALL_BUCKETS,
) -> Checkpoint:
    """Load a checkpoint of this config and packing that holds some facts.

    Of tables it has at least the rows of some buckets. Raises CheckpointError, which names the keys that differ, if
    it is of another config or packing.
    """
    checkpoint = load(path, buckets)
    _refuse_other_config(checkpoint, config, path)
    if checkpoint.facts.get("codes") != packed.codes:
        raise CheckpointError(
            f"{path}: trained on another packing of the data, whose vocabularies differ; "
            "train anew with --overwrite"
        )
    require_facts(checkpoint, parts, path)
    return checkpoint


def require_facts(held: Checkpoint, names: Iterable[str], path: Path) -> None:
    """Raise CheckpointError, which names the checkpoint's path, if it lacks a fact."""
    for name in names:
        if name not in held.facts:
            raise CheckpointError(f"{path}: holds no {name}; it is a checkpoint of another kind; train again")


def _refuse_other_config(checkpoint: Checkpoint, config: Config, path: Path) -> None:
    ours, theirs = flatten(plain(config)), flatten(_with_defaults(checkpoint.facts.get("config", {})))
    keys = {k for k in (ours.keys() | theirs.keys()) - MAY_CHANGE if not k.startswith(AFTERWARDS)}
    differing = sorted(key for key in keys if ours.get(key) != theirs.get(key))
    if differing:
        named = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise CheckpointError(
            f"{path}: a checkpoint of another config ({named}{more}); "
            "give the config that it was trained with, or train anew without --resume"
        )


def _with_defaults(settings: Any) -> Any:
    """A checkpoint's config with the defaults of keys that it lacks; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, settings, "checkpoint"))
    except ConfigError:
        return settings
