"""The second pass: the log's rows are spread over partitions by request, and each gives a shard of arrays a split.

Histories and derived features (crosses, priors) are added when all shards are written: see `pack` and
`derived_columns`.

Letters: R requests · C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import write_arrays, write_frame, write_ragged, write_rows
from corank.core.errors import name_rows
from corank.core.ragged import Ragged, Rows, concat_ranges
from corank.core.time import NEVER
from corank.core.types import Ints, Longs
from corank.data.log_rows import (
    constant_columns,
    describe_request,
    find_truth,
    read_single_columns,
    request_columns,
    row_splits,
    truth_columns,
)
from corank.data.packed.manifest import ShardCount
from corank.data.packed.shard import scalar_features
from corank.data.packing.event_pieces import write_lists
from corank.data.packing.first_pass import PackedTables, encode_versions
from corank.data.packing.grouping import GroupedRequests
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import (
    PackWorkspace,
    SpreadRows,
    read_partition,
    write_beside,
    write_counts,
    write_piece,
)
from corank.data.tables import Table, cut_table
from corank.engine.base import SentByFields
from corank.features.encoders import assemble_rows
from corank.features.encoding import Encoded, Placement, RowFeatures, take_encoded
from corank.features.log_schema import (
    ITEM,
    ROW,
    TIME,
    USER,
    Labels,
    find_events,
    hide_immature,
    read_labels,
    read_levels,
    score_column,
    value_column,
)
from corank.features.operands import OperandRows, Operands
from corank.features.row_encoder import EncodedColumns, RowEncoder
from corank.features.schema import Schema


@dataclass(frozen=True)
class PackPartition(SentByFields):
    """Packs a partition of the log, whose number is the task, into a shard for each split."""

    inputs: PackSources
    tables: PackedTables
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
        requests = GroupedRequests.group(rows, self.inputs.data, self.constant)
        truth = read_partition(self.truth, n) if self.truth else None
        shards = self._write(f"{n:05d}", requests, truth)
        return {
            "splits": {split: shard.model_dump() for split, shard in shards.items()},
            "duplicates": requests.duplicates,
        }

    @property
    def _schema(self) -> Schema:
        return self.inputs.schema

    @cached_property
    def _cross_encoder(self) -> RowEncoder:
        return RowEncoder(self.tables.encoders, "cross")

    @cached_property
    def _query_encoder(self) -> RowEncoder:
        return RowEncoder(self.tables.encoders, "query")

    @cached_property
    def _logged_encoder(self) -> RowEncoder:
        """Of what requests have in the log."""
        names = [n for n in self._query_encoder.columns if self.inputs.sources[n] != "users"]
        return RowEncoder(self.tables.encoders, "query", names)

    @cached_property
    def _users(self) -> EncodedColumns:
        """What all users have in their table."""
        names = [n for n in self._query_encoder.columns if self.inputs.sources[n] == "users"]
        encoder = RowEncoder(self.tables.encoders, "query", names)
        return encode_versions(encoder, self.tables.users, self.inputs.data.user)

    def _write(
        self, name: str, requests: GroupedRequests, truth: pl.DataFrame | None
    ) -> dict[str, ShardCount]:
        """Write a shard for each split that has some of the requests. Returns split → shard.

        Args:
            name: of the partition.
            requests: its requests.
            truth: its rows of the table of true probabilities.
        """
        data, tables = self.inputs.data, self.tables
        first_rows, start = requests.first_rows, requests.start
        time = first_rows[TIME].to_numpy()
        labels = read_labels(requests.rows, data)
        candidates = self._candidates(requests.rows, labels)
        if truth is not None:
            candidates |= {f"truth.{n}": p for n, p in find_truth(requests.rows, truth, data).items()}
        pairs, logged = self._encode(self._cross_encoder, requests.rows)
        cross, cross_lists = _assemble(self._schema, "cross", pairs, len(requests.rows))
        users = tables.users.ids.find(first_rows[USER]).astype(np.int32)
        features, operands = self._encode_requests(first_rows, time)
        query, lists = _assemble(self._schema, "query", features, len(first_rows))
        keys = first_rows.select(pl.col(c).alias(name) for name, c in request_columns(data).items())
        self._write_events(name, requests, labels, users)
        owners = write_lists(self.inputs, tables, name, first_rows)
        self._write_prior_pieces(name, requests, labels, candidates["item"], operands)
        written = {}
        size = np.diff(start).astype(np.int32)
        for split, inside in first_rows.select(**row_splits(data)).to_dict().items():
            index = np.flatnonzero(inside.to_numpy())
            if not len(index):
                continue
            with write_beside(tables.folder / split / name) as folder:
                here = concat_ranges(start[index], size[index])
                begin = np.append(0, np.cumsum(size[index], dtype=np.int64))
                write_rows(folder / "query", query.take(index))
                for n, values in lists.items():
                    write_ragged(folder / "query", n, values.take(index))
                write_rows(folder / "snapshot", assemble_rows(RowFeatures((), (), (), ()), {}, len(here)))
                write_rows(folder / "cross", cross.take(here))
                for n, values in cross_lists.items():
                    write_ragged(folder / "cross", n, values.take(here))
                if self._query_encoder.operands:
                    operands.take(index).save(folder / "query" / "operands")
                with write_beside(logged_operands(tables.spill, split, name)) as spilt:
                    logged.take(here).save(spilt)
                write_arrays(folder, {n: array[here] for n, array in candidates.items()})
                write_arrays(folder, {"request_start": begin, "user": users[index], "time": time[index]})
                write_frame(folder / "request.arrow", keys[index])
            for pieces, owner in owners:
                pieces.write_owners(split, name, owner[index])
            written[split] = ShardCount(name=name, requests=len(index), candidates=len(here))
        return written

    def _candidates(self, rows: pl.DataFrame, labels: Labels) -> dict[str, NDArray[Any]]:
        """Make the arrays of the candidates, by the names of their files: (C,)."""
        data = self.inputs.data
        arrays: dict[str, NDArray[Any]] = {
            "item": self.tables.items.find(rows[ITEM], rows[TIME].to_numpy()).astype(np.int32),
            "level": read_levels(rows, data),
        }
        for name, label in hide_immature(labels, rows, data, self.inputs.as_of).items():
            arrays[f"label.{name}"] = label
        for name in data.scores:
            arrays[f"score.{name}"] = rows[score_column(name)].fill_null(np.nan).to_numpy()
        for name, source in self.inputs.value_sources.items():
            if source == "log":
                arrays[f"column.{name}"] = rows[value_column(name)].to_numpy()
        return arrays | read_single_columns(rows, data)

    def _encode(self, encoder: RowEncoder, rows: pl.DataFrame) -> EncodedColumns:
        """Encode what rows have in the log. Raises DataError, which names the request."""
        with name_rows(lambda row: describe_request(rows, row, self.inputs.data)):
            return encoder.encode(rows.to_dict(), len(rows))

    def _encode_requests(self, first_rows: pl.DataFrame, time: Longs) -> EncodedColumns:
        """Encode what requests have in the log, and their users in their table at the time; histories left out: (R)."""
        features, operands = self._encode(self._logged_encoder, first_rows)
        users, row = self._users, self.tables.users.find(first_rows[USER], time)
        features |= {name: take_encoded(feature, row) for name, feature in users.features.items()}
        joined = operands.merge(users.operands.take(row))
        return EncodedColumns(features, joined.reorder(self._query_encoder.operands))

    def _write_events(self, shard: str, requests: GroupedRequests, labels: Labels, users: Ints) -> None:
        """Write the events of each kind of history, to be sorted when all shards are written."""
        user = np.repeat(users, np.diff(requests.start))
        logged = [h for h in self._schema.histories().values() if h.lists is None and h.table is None]
        for name, history in {h.events: h for h in logged}.items():
            listed = find_events(history.event, requests.rows, labels, self.inputs.data)
            listed &= requests.rows[TIME].to_numpy() >= self.inputs.start.events.get(name, NEVER)
            rows = requests.rows.filter(listed)
            codes = self.tables.encoders.encode(history.of, rows[ITEM])
            assert not isinstance(codes, Ragged)
            piece = {"user": user[listed], "times": rows[TIME], "items": codes, "row": rows[ROW]}
            piece["ordinals"] = self.tables.items.ids.find(rows[ITEM]).astype(np.int32)
            write_piece(self.tables.spill, name, shard, pl.DataFrame(piece).sort("user"))

    def _write_prior_pieces(
        self, shard: str, requests: GroupedRequests, labels: Labels, item: Ints, operands: Operands
    ) -> None:
        """Write what each prior counts, to be summed when all shards are written."""
        request_of = np.repeat(np.arange(len(requests)), np.diff(requests.start))
        sides = OperandRows.pairs(
            self._schema.operand_placements, operands, self.tables.item_operands, request_of, item
        )
        for n, (name, prior) in enumerate(self._schema.priors().items()):
            if prior.events is None:
                counted = prior.count(requests.rows, self.inputs.data, labels, sides)
                since = self.inputs.start.periods.get(name, NEVER)
                write_counts(self.tables.spill, n, shard, counted, since)


def logged_operands(spill: Path, split: str, shard: str) -> Path:
    """Return the folder of the operands that a shard's candidates have in the log, until derived features are made."""
    return spill / "logged operands" / split / shard


def _assemble(
    schema: Schema, placement: Placement, columns: dict[str, Encoded], count: int
) -> tuple[Rows, dict[int, Ragged]]:
    """Assemble encoded features: rows without lists, and the lists that there are by position."""
    rows = assemble_rows(scalar_features(schema, placement), columns, count)
    lists = enumerate(schema.row_features(placement).lists)
    return rows, {n: column for n, name in lists if isinstance(column := columns.get(name), Ragged)}


def pack_partitions(
    workspace: PackWorkspace, inputs: PackSources, tables: PackedTables, partitions: int
) -> tuple[dict[str, list[ShardCount]], int]:
    """Run the second pass. Returns shards by split, and how many duplicates were dropped. Raises DataError."""
    data = inputs.data

    def spread(name: str, table: Table, columns: list[pl.Expr]) -> list[Path]:
        folder, request = workspace.spill / name, list(request_columns(data).values())
        task = SpreadRows(table, columns, request, partitions, folder)
        file_lists = workspace.run(f"spread {name}", task, cut_table(table))
        return [folder / file for files in file_lists for file in files]

    log = spread("log", inputs.log, inputs.log_columns())
    truth = [] if inputs.truth is None else spread("truth", inputs.truth, truth_columns(inputs.truth, data))
    pack = PackPartition(inputs, tables, constant_columns(data, inputs.schema, inputs.sources), log, truth)
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
