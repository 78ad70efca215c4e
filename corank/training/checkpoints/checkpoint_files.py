"""The checkpoints of a run: where each lies, how it is written, and whether it is of a config and packed data.

One process writes a file; several ranks a folder, while they keep training:

    RUN/NAME/manifest.json                              written last, replaced in one rename
    RUN/NAME/<content>/shard-00000-of-00002.safetensors of each rank, in a folder of its own each time

A writer killed at any moment leaves the manifest of the checkpoint before, and that one's files.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from corank.bundle.manifest import Part
from corank.core.errors import CheckpointError, ConfigError
from corank.core.files import atomic_file, parse_json, read_regular_file, sync
from corank.core.settings import validate
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.training.checkpoints.checkpoint import ALL_BUCKETS, Checkpoint, load, save
from corank.training.checkpoints.shards import (
    MANIFEST,
    ShardManifest,
    copy_shard,
    load_shards,
    outline_checkpoint,
    shard_file,
    write_shard,
)
from corank.training.config.config import Config
from corank.training.config.config_file import complete_saved, flatten, plain


@dataclass(frozen=True)
class CheckpointLocation:
    """A checkpoint of a run, by name. Whoever writes one kind removes the other afterwards.

    A process killed in between leaves both, each whole. The folder is read then; if the file is newer, training resumes
    from a little earlier, to the same weights.
    """

    run: Path
    """The run's folder."""
    name: str

    @property
    def file(self) -> Path:
        """The file that one process writes."""
        return self.run / f"{self.name}.safetensors"

    @property
    def folder(self) -> Path:
        """The folder that several ranks write."""
        return self.run / self.name

    @property
    def path(self) -> Path:
        """The file or the folder, whichever exists; the file if there is none."""
        return self.folder if (self.folder / MANIFEST).is_file() else self.file

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint, written to its end."""
        return (self.folder / MANIFEST).is_file() or self.file.is_file()

    def load(self, buckets: range = ALL_BUCKETS) -> Checkpoint:
        """Map the checkpoint and prove it whole, of tables at least the rows of some buckets.

        Raises CheckpointError, which names the file, if it is absent, cut short or altered.
        """
        return load_shards(self.folder, buckets) if self.path == self.folder else load(self.file)

    def remove(self) -> None:
        """Remove the checkpoint. Raises OSError."""
        self.file.unlink(missing_ok=True)
        self.remove_folder()

    def remove_folder(self) -> None:
        """Remove the folder. Raises OSError if its manifest cannot be removed."""
        if self.folder.is_dir():
            (self.folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)


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

    def write(self, location: CheckpointLocation, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; an earlier one there is removed afterwards. A collective.

        Several ranks copy their parts and write them in the background: later steps do not change what is written. The
        facts and the tensors that are whole are those of rank 0.

        Raises CheckpointError if this one, or the one before it, cannot be written.
        """
        self.wait()
        try:
            if self.ranks.alone:
                save(location.file, checkpoint)
                location.remove_folder()
                return
            content = self.ranks.share(_make_content(location) if self.ranks.first else None, "checkpoint")
        except OSError as error:
            raise _unwritable(location, self.ranks, error) from None
        shard = copy_shard(checkpoint, self.ranks.rank, self.ranks.world)
        self._writing = _ShardThread(location, content, self.ranks, checkpoint, shard)
        self._writing.start()

    def wait(self) -> None:
        """Wait until what was written last is on disk. A collective. Raises CheckpointError if it cannot be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait_for_shard()
            self.ranks.wait("checkpoint")
            writing.wait_for_end()


class _ShardThread(threading.Thread):
    """Writes a rank's file of a checkpoint; that of rank 0 then writes the manifest, once all files are there."""

    def __init__(
        self,
        location: CheckpointLocation,
        content: str,
        ranks: Ranks,
        checkpoint: Checkpoint,
        shard: dict[str, Tensor],
    ) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._location, self._folder, self._ranks = location, location.folder / content, ranks
        # not the tensors of the model, which keep changing
        self._outline, self._tables, self._shard = (
            outline_checkpoint(checkpoint),
            set(checkpoint.tables),
            shard,
        )
        self._written = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """Write, and keep the error if there is one."""
        try:
            self._write_shard()
            self._written.set()
            if self._ranks.first:
                self._publish()
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
        if isinstance(self._error, OSError | SafetensorError):
            raise _unwritable(self._location, self._ranks, self._error) from None
        if self._error is not None:
            raise self._error

    def _write_shard(self) -> None:
        rank, world = self._ranks.rank, self._ranks.world
        part = write_shard(self._folder, rank, world, self._shard, self._tables)
        self._shard.clear()
        with atomic_file(self._folder / _note(rank)) as partial:
            partial.write_text(json.dumps(part.model_dump()), encoding="utf-8")

    def _publish(self) -> None:
        """Write the manifest once every rank has noted its file, then remove what was there before."""
        files = {
            shard_file(rank, self._ranks.world): self._await_note(rank) for rank in range(self._ranks.world)
        }
        for rank in range(self._ranks.world):
            (self._folder / _note(rank)).unlink()
        sync(self._folder)
        ShardManifest.of(self._outline, self._folder.name, files).write(self._location.folder)
        self._location.file.unlink(missing_ok=True)
        for old in self._location.folder.iterdir():
            if old.name not in (MANIFEST, self._folder.name):
                shutil.rmtree(old, ignore_errors=True)

    def _await_note(self, rank: int) -> Part:
        """Wait for a rank's file. If that rank fails, it raises, and ends this training."""
        path = self._folder / _note(rank)
        while not path.is_file():
            threading.Event().wait(POLL)
        return validate(Part, parse_json(read_regular_file(self._folder, path.name, 1 << 12)), str(path))


def _note(rank: int) -> str:
    """The file in which a rank notes size and checksum of its file."""
    return f"shard-{rank:05d}.json"


def _make_content(location: CheckpointLocation) -> str:
    """Make an empty folder for files. Returns its name."""
    content = os.urandom(4).hex()
    (location.folder / content).mkdir(parents=True)
    sync(location.folder)
    sync(location.run)
    return content


def _unwritable(location: CheckpointLocation, ranks: Ranks, error: Exception) -> CheckpointError:
    rank = "" if ranks.alone else f" by rank {ranks.rank}"
    return CheckpointError(f"{location.folder}: cannot be written{rank}: {error}; free some space and resume")


MAY_CHANGE = {"packed", "train.tables"}
"""Keys of a config that may change when a training continues: they say where data and weights lie."""
AFTERWARDS = ("drift.", "export.")
"""Prefixes of keys that do not affect training, and that may change, too."""


def config_facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    """The facts that tie a checkpoint to a config and to packed data."""
    return {"config": plain(config), "codes": packed.codes}


def load_matching(
    location: CheckpointLocation,
    parts: Sequence[str],
    config: Config,
    packed: PackedDataset,
    buckets: range = ALL_BUCKETS,
) -> Checkpoint:
    """Load a checkpoint of this config and packing that holds some facts.

    Of tables it has at least the rows of some buckets. Raises CheckpointError, which names the keys that differ, if
    it is of another config or packing.
    """
    path, checkpoint = location.path, location.load(buckets)
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
    """A checkpoint's config with what keys added since meant then; unchanged if it is not valid now."""
    try:
        return plain(validate(Config, complete_saved(settings), "checkpoint"))
    except ConfigError:
        return settings
