"""The rows of a config's log that a run has not been trained on, counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from corank.core.time import FOREVER, format_time
from corank.data.tables import Table
from corank.features.row_columns import LEVEL, TIME
from corank.training.config import Config
from corank.training.profile.split_rows import SPLIT, SplitRows


@dataclass(frozen=True)
class KnownLabels:
    """The exposed candidates of a label that are old enough for it, and whose condition happened."""

    positives: int
    negatives: int
    null: int

    @property
    def rate(self) -> float | None:
        """The share of ones; None if nothing is known."""
        known = self.positives + self.negatives
        return self.positives / known if known else None


@dataclass(frozen=True)
class NewRows:
    """The new training rows of a config."""

    config: Config
    begin: int
    """When they begin, ms UTC."""
    end: int
    """When the config's training ends, or after the last row if it has no end."""
    levels: Sequence[int]
    """Candidates of each level."""
    labels: Mapping[str, KnownLabels]

    @classmethod
    def read(cls, config: Config, table: Table, begin: int) -> "NewRows":
        """Count the rows of a log that train from a moment on, ms UTC. Raises DataError."""
        data = config.data
        log = table.keep(lambda frame: frame.filter(table.since(data.time, begin)))
        last = log.collect(log.frame.select(log.moment(data.time).max())).item()
        rows = SplitRows.of(log, data, config.declared, {}, begin if last is None else int(last))
        rows = replace(rows, frame=rows.frame.filter(pl.col(SPLIT) == "train", pl.col(TIME) >= begin))
        kinds = ("positives", "negatives", "null")
        sums = [rows.counts_as(n, k).sum().alias(f"{n} {k}") for n in data.labels for k in kinds]
        counts = rows.collect(
            rows.frame.group_by(LEVEL).agg(pl.len(), pl.col(TIME).max().alias("last"), *sums)
        )
        sizes = dict(counts.select(LEVEL, "len").rows())
        until = data.training_end()
        return cls(
            config,
            begin,
            max([begin, *counts["last"].to_list()]) + 1 if until == FOREVER else until,
            [sizes.get(level, 0) for level in range(len(data.levels))],
            {n: KnownLabels(*(int(counts[f"{n} {k}"].sum()) for k in kinds)) for n in data.labels},
        )

    def __len__(self) -> int:
        return sum(self.levels)

    @property
    def span(self) -> str:
        """The period, for people."""
        return f"{format_time(self.begin)} to {format_time(self.end)}"
