"""Packed rows seen with some of their features, such as those of a run that is judged on data packed for another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from corank.core.ragged import Rows
from corank.data.shard import Shard
from corank.features.encoders import assemble_rows, split_rows
from corank.features.schema import PLACEMENTS, Placement, Schema


@dataclass(frozen=True)
class FeatureSelection:
    """Selects the features of `some` out of those of `whole`."""

    whole: Schema
    some: Schema

    @property
    def is_whole(self) -> bool:
        """Whether the rows stay as they are."""
        return all(self.whole.row_features(place) == self.some.row_features(place) for place in PLACEMENTS)

    def rows(self, placement: Placement, rows: Rows) -> Rows:
        """Select the features of a placement: the same rows if there are no others, otherwise copies of columns."""
        whole, some = self.whole.row_features(placement), self.some.row_features(placement)
        return rows if whole == some else assemble_rows(some, split_rows(whole, rows), len(rows))

    def shard(self, shard: Shard) -> Shard:
        """Select the features of a shard."""
        return replace(
            shard,
            query=self.rows("query", shard.query),
            snapshot=self.rows("snapshot", shard.snapshot),
            cross=self.rows("cross", shard.cross),
        )


class SelectedShards(Sequence[Shard]):
    """Shards with some of their features, selected when they are read first."""

    def __init__(self, shards: Sequence[Shard], select: FeatureSelection) -> None:
        self._shards, self._select, self._selected = shards, select, dict[int, Shard]()

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, n: int) -> Shard: ...

    @overload
    def __getitem__(self, n: slice) -> Sequence[Shard]: ...

    def __getitem__(self, n: int | slice) -> Shard | Sequence[Shard]:
        """Select of a shard, or of several. Raises IndexError, StorageError."""
        if isinstance(n, slice):
            return [self[one] for one in range(len(self))[n]]
        n = range(len(self))[n]
        if n not in self._selected:
            self._selected[n] = self._select.shard(self._shards[n])
        return self._selected[n]
