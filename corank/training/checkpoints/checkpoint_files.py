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
import threading
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corank.core.artifact import ArtifactWriter, File, new_content, open_folder
from corank.core.errors import CheckpointError
from corank.core.files import atomic_file, open_regular_file, sync
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import ALL_BUCKETS, BUCKETS, RowShards
from corank.training.checkpoints.checkpoint import Checkpoint, SplitTable, TablePart, map_tensors, reading
from corank.training.checkpoints.facts import require_matching
from corank.training.checkpoints.manifest import CheckpointManifest, shard_file
from corank.training.config.config import Config


def load(folder: Path, buckets: range = ALL_BUCKETS) -> Checkpoint:
    """Map a checkpoint and prove it whole, of tables at least the rows of some buckets.

    Raises CheckpointError, which names the file, if one is absent, cut short, altered or of another form.
    """

    def wanted(name: str) -> bool:
        rank, ranks = (int(number) for number in name.removesuffix(".safetensors").split("-")[1::2])
        own = _buckets(rank, ranks)
        return rank == 0 or (own.start < buckets.stop and buckets.start < own.stop)

    with reading(folder):
        opened = open_folder(folder, CheckpointManifest, wanted=wanted)
        manifest, tensors, tables = opened.manifest, dict[str, Tensor](), dict[str, SplitTable]()
        parts: dict[str, list[TablePart]] = {name: [] for name, t in manifest.tensors.items() if t.table}
        for rank in range(manifest.ranks):
            file_name = shard_file(rank, manifest.ranks)
            if not wanted(file_name):
                continue
            with open_regular_file(opened.folder, file_name) as file:
                mapped, _ = map_tensors(file)
            for name, tensor in mapped.items():
                if name in parts and manifest.ranks > 1:
                    parts[name].append(TablePart(_buckets(rank, manifest.ranks), tensor.flatten(0, 1)))
                else:
                    tensors[name] = tensor
        for name, shards in parts.items():
            if shards:
                tables[name] = SplitTable(manifest.tensors[name].shape[0], tuple(shards))
    return Checkpoint(tensors, manifest.facts, tables)


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
            raise OSError("no such folder here; all ranks must see the run's folder on one file system")
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
        return File.model_validate_json(path.read_bytes())


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


def load_matching(
    path: Path, config: Config, packed: PackedDataset, buckets: range = ALL_BUCKETS
) -> Checkpoint:
    """Load a checkpoint of this config and packing, of tables at least the rows of some buckets.

    Raises CheckpointError, which names the keys that differ, if it is of another config or packing.
    """
    checkpoint = load(path, buckets)
    require_matching(checkpoint.facts, config, packed, path)
    return checkpoint
