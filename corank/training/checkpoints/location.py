"""Where a checkpoint of a run lies, and of which kind it is: a file of one process, or a folder of several ranks."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from corank.training.checkpoints.checkpoint import Checkpoint, load
from corank.training.checkpoints.shard_files import load_shards
from corank.training.checkpoints.shard_manifest import MANIFEST
from corank.training.checkpoints.split_table import ALL_BUCKETS


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
