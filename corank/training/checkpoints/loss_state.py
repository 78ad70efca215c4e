"""What losses keep between batches, such as a queue of items' vectors: saved and resumed with the training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from corank.core.errors import ConfigError
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import ALL_BUCKETS, BUCKETS, RowShards
from corank.losses.total import TotalLoss
from corank.models.stage_io import StageOutput
from corank.training.checkpoints.checkpoint import (
    Checkpoint,
    SplitTable,
    TablePart,
    TableRows,
)

PREFIX = "loss."
"""Begins the names of these tensors in a checkpoint: `loss.NAME.PART`, NAME of the loss."""


class LossState:
    """The tensors of `Loss.state` on this rank.

    Rows are divided over ranks as those of tables are, whatever the number of ranks that resume: 10,000 rows are 10,000
    on one rank, 5,000 on each of two. A tensor without rows is the same on all ranks.
    """

    def __init__(self, total: TotalLoss, ranks: Ranks, device: torch.device) -> None:
        """Make them as they are before the first step. Raises ConfigError if two losses of one name keep some."""
        buckets = RowShards(BUCKETS, ranks.world).buckets(ranks.rank)
        self._tensors: dict[str, Tensor] = {}
        self._rows: dict[str, TableRows] = {}
        self._given: dict[str, dict[str, Mapping[str, Tensor]]] = {}
        keeping = [(loss, state) for loss in total.losses if (state := loss.state(total.funnel))]
        names = Counter(loss.name for loss, _ in keeping)
        if twice := next((name for name, count in names.items() if count > 1), None):
            raise ConfigError(f"losses: two are called '{twice}' and keep a state; only one of a name may")
        for loss, state in keeping:
            kept = {
                part: self._hold(f"{PREFIX}{loss.name}.{part}", t, buckets, device)
                for part, t in state.items()
            }
            for stage in loss.reads(total.funnel):
                self._given.setdefault(stage, {})[loss.name] = kept

    def _hold(self, name: str, begin: Tensor, buckets: range, device: torch.device) -> Tensor:
        """Keep this rank's part of a tensor. Returns what the loss sees of it: the rows that are rows of the whole."""
        if not begin.dim():
            self._tensors[name] = begin.clone().to(device)
            return self._tensors[name]
        rows = self._rows[name] = TableRows(len(begin), buckets)
        whole = SplitTable(rows.rows, (TablePart(ALL_BUCKETS, begin),))
        self._tensors[name] = whole.take(buckets)[: rows.size].to(device)
        return self._tensors[name][: sum(len(range(bucket, rows.rows, BUCKETS)) for bucket in buckets)]

    def give(self, outputs: Mapping[str, StageOutput]) -> Mapping[str, StageOutput]:
        """The outputs of stages with what losses keep, by stage and loss."""
        if not self._given:
            return outputs
        return {
            name: replace(output, loss_state=self._given[name]) if name in self._given else output
            for name, output in outputs.items()
        }

    def add_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with these tensors, not copied."""
        tables = {
            name: SplitTable(rows.rows, (TablePart(rows.buckets, self._tensors[name]),))
            for name, rows in self._rows.items()
        }
        whole = {name: tensor for name, tensor in self._tensors.items() if name not in tables}
        return replace(checkpoint, tensors=checkpoint.tensors | whole, tables=checkpoint.tables | tables)

    def restore(self, held: Checkpoint) -> None:
        """Take the tensors over from a checkpoint."""
        self._take(held, self._tensors)

    def carry(self, held: Checkpoint) -> None:
        """Take over what an earlier run's losses of the same names kept in the same shapes; others begin."""
        names = self._tensors.keys() & set(held.names)
        like = {name for name in names if held.shape(name) == self._shape(name)}
        self._take(held, {n: self._tensors[n] for n in like if held.dtype(n) == self._tensors[n].dtype})

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor."""
        own = tuple(self._tensors[name].shape)
        return (self._rows[name].rows, *own[1:]) if name in self._rows else own

    def _take(self, held: Checkpoint, targets: Mapping[str, Tensor]) -> None:
        for name, target in targets.items():
            rows = self._rows.get(name)
            target.copy_(held.whole(name) if rows is None else held.take(name, rows))
