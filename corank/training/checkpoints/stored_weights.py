"""The tensors of a checkpoint as numpy arrays, read from its files piece by piece, without torch."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from corank.core.arrays import PIECE_BYTES
from corank.core.artifact import Artifact, open_folder
from corank.core.errors import CheckpointError
from corank.distributed.row_shards import BUCKETS
from corank.training.checkpoints.manifest import CheckpointManifest, shard_file


@dataclass(frozen=True)
class StoredWeights:
    """A checkpoint that is proven whole; its tensors are read when they are asked for."""

    opened: Artifact[CheckpointManifest]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a checkpoint. Raises CheckpointError, which names the file, if one is absent, cut short or altered."""
        return cls(open_folder(folder, CheckpointManifest))

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self.opened.manifest.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor."""
        return tuple(self.opened.manifest.tensors[name].shape)

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """A whole tensor, some consecutive rows at a time. Raises CheckpointError if it cannot be read."""
        manifest, shape = self.opened.manifest, self.shape(name)
        # rows of a table that ranks share: those of some buckets in each file, (p, b, ...)
        shared = manifest.tensors[name].table and manifest.ranks > 1
        paths = [
            self.opened.folder / shard_file(rank, manifest.ranks)
            for rank in range(manifest.ranks if shared else 1)
        ]
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(safe_open(path, framework="numpy")) for path in paths]
                if not shape:
                    yield files[0].get_tensor(name)
                    return
                parts = [file.get_slice(name) for file in files]
                depth = parts[0].get_shape()[0]
                step = max(1, PIECE_BYTES * depth // max(1, 8 * math.prod(shape)))
                for first in range(0, depth, step):
                    blocks = [part[first : min(first + step, depth)] for part in parts]
                    if shared:
                        rows = np.concatenate(blocks, axis=1).reshape(-1, *shape[1:])
                        yield rows[: shape[0] - first * BUCKETS]
                    else:
                        yield blocks[0]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{paths[0].parent}: {name}: unreadable ({error}); train again") from None
