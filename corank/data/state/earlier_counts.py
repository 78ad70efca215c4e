"""The counts of the priors of an earlier packing, which another continues."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.time import DAY, MILLISECOND, NEVER
from corank.data.dataset import prior_folder
from corank.data.state.pack_start import PackStart
from corank.features.counts.cumulative import ALL_TIME, Memory
from corank.features.counts.growth import list_keep_days
from corank.features.priors import PriorCounts
from corank.features.schema import Schema


@dataclass(frozen=True)
class EarlierCounts:
    """The counts of one prior before the period from which rows are counted again."""

    folder: Path
    """Of the counts."""
    period: int
    """ms UTC."""
    memory: Memory = ALL_TIME
    seen_from: int = NEVER
    """Keys whose last period is earlier, ms UTC, are forgotten."""

    @classmethod
    def find(cls, start: PackStart, schema: Schema, until: int) -> Mapping[str, "EarlierCounts"]:
        """Find the counts that are continued, by prior.

        Drops keys that were not seen for the longest `keep_days` of the features that make them up.

        Args:
            start: names the earlier packing.
            schema: the features.
            until: when training ends, ms UTC.
        """
        counts = {}
        for name, period in start.periods.items():
            assert start.earlier is not None
            number = list(start.earlier.schema.priors()).index(name)
            by = [schema.features[operand] for operand in schema.derived()[name].operands]
            days = [day for day in list_keep_days(by) if day is not None]
            seen = until - max(days) * (DAY // MILLISECOND) if days else NEVER
            folder, memory = prior_folder(start.earlier.folder, number), schema.priors()[name].memory
            counts[name] = cls(folder, period, memory, seen)
        return counts

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is mapped here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def held(self) -> PriorCounts:
        """All counts of the earlier packing."""
        return PriorCounts.load(self.folder)

    def weights(self, first: int, end: int) -> pl.DataFrame:
        """Return the weights of a range of keys, like `CumulativeCounts.weights`."""
        counts = self.held.select_range(first, end).as_of(self.period, self.memory, dated=True)
        last = counts.counts.periods[counts.counts.offsets[1:] - 1]
        kept = np.flatnonzero(last >= self.seen_from)
        return counts.counts.select(kept).weights(counts.keys[kept])

    def weights_of_all(self) -> pl.DataFrame:
        """Return the weights of all keys together."""
        return self.held.all.as_of(self.period, self.memory).weights(np.zeros(1, dtype=np.uint64))
