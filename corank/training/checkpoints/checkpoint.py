"""A training state or trained weights: named tensors, and facts.

One process writes them as one file in the format of safetensors, which holds no code. A file is written next to its
name, forced to disk, then renamed: a reader finds the old one or the new one, never half.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.core.files import atomic_file
from corank.core.storage.untrusted_files import open_regular_file, parse_json
from corank.training.checkpoints.facts import check_facts
from corank.training.checkpoints.mapped_tensors import map_tensors
from corank.training.checkpoints.split_table import SplitTable, TablePart, TableRows


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and facts."""

    tensors: dict[str, Tensor]
    """Those that are whole. If they were loaded, they are mapped from the file: copy what is to stay."""
    facts: dict[str, Any]
    """Everything that is no tensor, as JSON values."""
    tables: dict[str, SplitTable] = field(default_factory=dict)
    """Tensors with a row for each row of a table, in parts."""

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self.tensors | self.tables)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor."""
        return self.tables[name].shape if name in self.tables else tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor's numbers."""
        return self.tables[name].dtype if name in self.tables else self.tensors[name].dtype

    def without(self, names: Iterable[str]) -> Self:
        """All tensors but some."""
        left = set(self.names) - set(names)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in left}
        return type(self)(tensors, self.facts, {n: table for n, table in self.tables.items() if n in left})

    def numbers(self, name: str) -> list[Tensor]:
        """All numbers of a tensor that were loaded, in one part or several."""
        return (
            [part.values for part in self.tables[name].parts] if name in self.tables else [self.tensors[name]]
        )

    def whole(self, name: str) -> Tensor:
        """A whole tensor; not copied unless it is in several parts."""
        return self.tables[name].whole() if name in self.tables else self.tensors[name]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A whole tensor, some consecutive rows at a time."""
        return self.tables[name].pieces() if name in self.tables else iter([self.tensors[name]])

    def take(self, name: str, rows: TableRows) -> Tensor:
        """Copy the rows of a table that a tensor is to hold: (rows.size, ...)."""
        table = self.tables.get(name)
        if table is None:
            table = SplitTable(rows.rows, (TablePart(TableRows(rows.rows).buckets, self.tensors[name]),))
        return table.take(rows.buckets)[: rows.size]

    def gather(self, name: str, rows: Tensor) -> Tensor:
        """Copy rows of a table by their numbers: (N,) → (N, ...). All of the table must have been loaded."""
        table = self.tables.get(name)
        return self.tensors[name].index_select(0, rows) if table is None else table.gather(rows)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all. Raises CheckpointError, the old file untouched, if the disk refuses."""
    named = {name: checkpoint.whole(name) for name in checkpoint.names}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    facts = json.dumps(checkpoint.facts, sort_keys=True)
    try:
        with atomic_file(path) as partial:
            save_file(tensors, partial, {"facts": facts, "digest": digest_tensors(tensors, facts)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}; free some space and resume") from None


def load(path: Path) -> Checkpoint:
    """Map a file and prove it whole. Raises CheckpointError if it is absent, cut short, altered or of another form."""
    try:
        with open_regular_file(path.parent, path.name) as file:
            tensors, texts = map_tensors(file)
        facts = texts.get("facts", "")
        if texts.get("digest") != digest_tensors(tensors, facts):
            raise CheckpointError(f"{path}: its contents do not match its digest; delete it and train again")
        return Checkpoint(tensors, check_facts(parse_json(facts)))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no such checkpoint; train first") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or no checkpoint ({error}); delete it and train again"
        ) from None


def digest_tensors(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Hash names, types, shapes and numbers of tensors, and the text of facts."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
