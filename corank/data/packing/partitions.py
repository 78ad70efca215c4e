"""The second pass over the log: its rows are spread over partitions by their request, and each gives its shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from corank.data.log_rows import constant_columns, request_columns, truth_columns
from corank.data.pack_manifest import ShardCount
from corank.data.packing.grouping import GroupedRequests
from corank.data.packing.shards import ShardWriter
from corank.data.packing.sources import PackSources
from corank.data.packing.spread import SpreadRows, read_partition
from corank.data.packing.workspace import PackWorkspace
from corank.data.row_ranges import cut_table
from corank.data.tables import Table
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class PackPartition:
    """Packs a partition; its number is the task."""

    writer: ShardWriter
    constant: dict[str, str]
    """Columns that must not change within a request, as in `constant_columns`."""
    log: Sequence[Path]
    """The files of `SpreadRows` for the log, in order."""
    truth: Sequence[Path]
    """Those for the true probabilities; empty if there are none."""

    def __call__(self, n: int) -> dict[str, Any]:
        """Pack the n-th partition.

        Returns:
            `splits`, by name the shard if there is one, and how many `duplicates` were dropped.

        Raises:
            DataError: the rows of a request, or their truth, contradict one another.
        """
        rows = read_partition(self.log, n)
        if not len(rows):
            return {"splits": {}, "duplicates": 0}
        requests = GroupedRequests.group(rows, self.writer.data, self.constant)
        truth = read_partition(self.truth, n) if self.truth else None
        shards = self.writer.write(f"{n:05d}", requests, truth)
        return {
            "splits": {split: shard.model_dump() for split, shard in shards.items()},
            "duplicates": requests.duplicates,
        }


def pack_partitions(
    workspace: PackWorkspace, inputs: PackSources, writer: ShardWriter, partitions: int
) -> tuple[dict[str, list[ShardCount]], int]:
    """Run the second pass. Returns shards by split, and how many duplicates were dropped. Raises DataError."""
    data = inputs.data
    log = _spread(workspace, "log", inputs.log, inputs.log_columns(), data, partitions)
    truth = _spread_truth(workspace, inputs, partitions)
    pack = PackPartition(writer, constant_columns(data, inputs.schema, inputs.sources), log, truth)
    progress = lambda done, total: workspace.report(f"packed: partition {done} of {total}")  # noqa: E731
    splits: dict[str, list[ShardCount]] = {split: [] for split in data.split_names}
    dropped = 0
    for packed in workspace.run("partitions", pack, range(partitions), progress):
        dropped += packed["duplicates"]
        for split, shard in packed["splits"].items():
            splits[split].append(ShardCount.model_validate(shard))
    for path in (*log, *truth):
        path.unlink(missing_ok=True)
    if dropped:
        workspace.report(f"log: {dropped:,} exact duplicates of a candidate dropped")
    return splits, dropped


def _spread(
    workspace: PackWorkspace,
    name: str,
    table: Table,
    columns: list[pl.Expr],
    data: DataSettings,
    partitions: int,
) -> list[Path]:
    """Spread a table. Returns the files in order."""
    folder = workspace.spill / name
    spread = SpreadRows(table, columns, list(request_columns(data).values()), partitions, folder)
    file_lists = workspace.run(f"spread {name}", spread, cut_table(table))
    return [folder / file for files in file_lists for file in files]


def _spread_truth(workspace: PackWorkspace, inputs: PackSources, partitions: int) -> list[Path]:
    """Spread the table of true probabilities; no files if there is none."""
    truth, data = inputs.truth, inputs.data
    if truth is None:
        return []
    return _spread(workspace, "truth", truth, truth_columns(truth, data), data, partitions)
