"""Requests in the order of time → a shard of packed arrays for each split.

Histories and derived features (crosses, priors) are added when all shards are written: see `pack` and
`derived_columns`.

Letters: R requests · C candidates.

The second pass over the log: its rows are spread over partitions by their request, and each gives its shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import read_frame, write_arrays, write_frame, write_ragged, write_rows
from corank.core.errors import name_rows
from corank.core.ragged import Ragged, Rows, Vectors, concat_ranges
from corank.core.time import NEVER
from corank.core.types import Ints, Longs
from corank.data.column_sources import Source
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
from corank.data.packing.earlier_pack import PackStart
from corank.data.packing.event_pieces import ENCODERS, EventEncoder, ListWriter
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
from corank.data.point_in_time import VersionedRows
from corank.data.tables import Table, cut_table
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Encoded, RowFeatures
from corank.features.log_schema import (
    FROM,
    ID,
    ITEM,
    ROW,
    TIME,
    USER,
    DataSettings,
    Labels,
    find_events,
    hide_immature,
    read_labels,
    read_levels,
    score_column,
    value_column,
)
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.schema import Placement, Schema, plain_columns


def encode_rows(
    encoders: Encoders, names: list[str], versions: VersionedRows, key: str
) -> dict[str, Encoded]:
    """Encode features of all rows of items or users; `key` is the column of the id."""
    with name_rows(lambda row: f"{key}={versions.frame[ID][row]!r}"):
        return {
            name: encoders.encode(name, feature_values(encoders.schema, name, versions, key))
            for name in names
        }


def feature_values(schema: Schema, name: str, versions: VersionedRows, key: str) -> pl.Series:
    """Return the values of a feature in all rows of items or users; `key` is the column of the id."""
    column = schema.column(name)
    return versions.frame[ID if column == key else column]


USERS = "users.arrow"
"""The rows of users: the first pass writes them and the encoders to the spill."""


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one partition after another. What the first pass left in files is mapped when it is read."""

    data: DataSettings
    schema: Schema
    sources: dict[str, Source]
    """The table of each feature of a column."""
    value_sources: dict[str, Source]
    """The table of each of the data's `columns`."""
    as_of: int
    """When the log's labels were read, ms UTC."""
    folder: Path
    """Of the packed data."""
    spill: Path
    """For pieces of events and of what priors count, which are merged when all shards are written."""
    start: PackStart
    """Rows of an earlier packing are neither events nor counted again."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is mapped here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def encoders(self) -> Encoders:
        """Those of the features that are read from a column."""
        return Encoders.load(self.spill / ENCODERS, self.schema, derived=False)

    @cached_property
    def items(self) -> VersionedRows:
        """The rows of items."""
        keys = read_frame(self.folder / "items" / "keys.arrow")
        return VersionedRows(keys.rename({"item": ID, "valid_from": FROM}))

    @cached_property
    def item_operands(self) -> Operands:
        """The operands of the rows of `items`."""
        wanted = OperandNames.of(self.schema, "item")
        return Operands.load(self.folder / "items" / "operands", wanted, len(self.items.frame))

    @cached_property
    def users(self) -> VersionedRows:
        """The rows of the log's users."""
        return VersionedRows(read_frame(self.spill / USERS))

    @cached_property
    def _user_names(self) -> list[str]:
        return [n for n in plain_columns(self.schema, "query") if self.sources[n] == "users"]

    @cached_property
    def _user_features(self) -> dict[str, Encoded]:
        return encode_rows(self.encoders, self._user_names, self.users, self.data.user)

    @cached_property
    def _wanted(self) -> OperandNames:
        return OperandNames.of(self.schema, "query")

    @cached_property
    def _user_operands(self) -> Operands:
        wanted = self._wanted.among(self._user_names)
        column = lambda name: feature_values(self.schema, name, self.users, self.data.user)  # noqa: E731
        return Operands.of(self.encoders, wanted, column, len(self.users.frame))

    def write(
        self, name: str, requests: GroupedRequests, truth: pl.DataFrame | None
    ) -> dict[str, ShardCount]:
        """Write a shard for each split that has some of the requests.

        Args:
            name: of the partition.
            requests: its requests.
            truth: its rows of the table of true probabilities.

        Returns:
            Split → shard.

        Raises:
            DataError: the truth lacks a candidate or contradicts itself.
        """
        first_rows, start = requests.first_rows, requests.start
        time = first_rows[TIME].to_numpy()
        labels = read_labels(requests.rows, self.data)
        candidates = self._candidates(requests.rows, labels) | self._truth(requests.rows, truth)
        cross, cross_lists = self._cross(requests.rows)
        users = self.users.ids.find(first_rows[USER]).astype(np.int32)
        query, lists = self._query(first_rows, time)
        operands = self._operands(first_rows, time)
        logged = self._logged_operands(requests.rows)
        keys = first_rows.select(pl.col(c).alias(name) for name, c in request_columns(self.data).items())
        self._write_events(name, requests, labels, users)
        encoder = EventEncoder(self.encoders, self.items.ids)
        owners = ListWriter(self.schema, self.data, self.sources, self.spill).write(
            name, encoder, self.users, first_rows
        )
        self._write_prior_pieces(name, requests, labels, candidates["item"], operands)
        written = {}
        size = np.diff(start).astype(np.int32)
        for split, inside in first_rows.select(**row_splits(self.data)).to_dict().items():
            index = np.flatnonzero(inside.to_numpy())
            if not len(index):
                continue
            with write_beside(self.folder / split / name) as folder:
                here = concat_ranges(start[index], size[index])
                begin = np.append(0, np.cumsum(size[index], dtype=np.int64))
                write_rows(folder / "query", query.take(index))
                for n, values in lists.items():
                    write_ragged(folder / "query", n, values.take(index))
                write_rows(folder / "snapshot", assemble_rows(RowFeatures((), (), (), ()), {}, len(here)))
                write_rows(folder / "cross", cross.take(here))
                for n, values in cross_lists.items():
                    write_ragged(folder / "cross", n, values.take(here))
                if self._wanted:
                    operands.take(index).save(folder / "query" / "operands")
                with write_beside(logged_operands(self.spill, split, name)) as spilt:
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
        arrays: dict[str, NDArray[Any]] = {
            "item": self.items.find(rows[ITEM], rows[TIME].to_numpy()).astype(np.int32),
            "level": read_levels(rows, self.data),
        }
        for name, label in hide_immature(labels, rows, self.data, self.as_of).items():
            arrays[f"label.{name}"] = label
        for name in self.data.scores:
            arrays[f"score.{name}"] = rows[score_column(name)].fill_null(np.nan).to_numpy()
        for name, source in self.value_sources.items():
            if source == "log":
                arrays[f"column.{name}"] = rows[value_column(name)].to_numpy()
        return arrays | read_single_columns(rows, self.data)

    def _truth(self, rows: pl.DataFrame, truth: pl.DataFrame | None) -> dict[str, NDArray[Any]]:
        """Find the true probabilities of the candidates: (C,)."""
        if truth is None:
            return {}
        return {f"truth.{n}": values for n, values in find_truth(rows, truth, self.data).items()}

    def _cross(self, rows: pl.DataFrame) -> tuple[Rows, dict[int, Ragged]]:
        """Encode the candidates' logged crosses: rows without lists, and the lists by position: (C)."""
        placed = self.schema.row_features("cross")
        derived = self.schema.derived("cross")
        names = [name for name in placed if name not in derived]
        with name_rows(lambda row: describe_request(rows, row, self.data)):
            columns = {name: self.encoders.encode(name, rows[self.schema.column(name)]) for name in names}
        return _assemble(self.schema, "cross", columns, len(rows))

    def _query(self, first_rows: pl.DataFrame, time: Longs) -> tuple[Rows, dict[int, Ragged]]:
        """Encode the requests' features: rows without lists, and the lists by position, histories left out: (R)."""
        row = self.users.find(first_rows[USER], time)
        columns: dict[str, Encoded] = {}
        for name in plain_columns(self.schema, "query"):
            if name in self._user_features:
                feature = self._user_features[name]
                columns[name] = feature.take(row) if isinstance(feature, Ragged | Vectors) else feature[row]
            else:
                with name_rows(lambda row: describe_request(first_rows, row, self.data)):
                    columns[name] = self.encoders.encode(name, first_rows[self.schema.column(name)])
        return _assemble(self.schema, "query", columns, len(first_rows))

    def _operands(self, first_rows: pl.DataFrame, time: Longs) -> Operands:
        """Make the operands of the requests, histories left out: (R)."""
        here = [name for name in self._wanted.names if name not in self._user_names]
        column = lambda name: first_rows[self.schema.column(name)]  # noqa: E731
        logged = Operands.of(self.encoders, self._wanted.among(here), column, len(first_rows))
        user = self._user_operands.take(self.users.find(first_rows[USER], time))
        return logged.merge(user).reorder(self._wanted)

    def _logged_operands(self, rows: pl.DataFrame) -> Operands:
        """Make the operands that are logged with the candidates: (C)."""
        wanted = OperandNames.of(self.schema, "cross")
        return Operands.of(self.encoders, wanted, lambda name: rows[self.schema.column(name)], len(rows))

    def _write_events(self, shard: str, requests: GroupedRequests, labels: Labels, users: Ints) -> None:
        """Write the events of each kind of history, to be sorted when all shards are written."""
        user = np.repeat(users, np.diff(requests.start))
        logged = [h for h in self.schema.histories().values() if h.lists is None and h.table is None]
        for name, history in {h.events: h for h in logged}.items():
            listed = find_events(history.event, requests.rows, labels, self.data)
            listed &= requests.rows[TIME].to_numpy() >= self.start.events.get(name, NEVER)
            rows = requests.rows.filter(listed)
            codes = self.encoders.encode(history.of, rows[ITEM])
            assert not isinstance(codes, Ragged)
            piece = {"user": user[listed], "times": rows[TIME], "items": codes, "row": rows[ROW]}
            piece["ordinals"] = self.items.ids.find(rows[ITEM]).astype(np.int32)
            write_piece(self.spill, name, shard, pl.DataFrame(piece).sort("user"))

    def _write_prior_pieces(
        self, shard: str, requests: GroupedRequests, labels: Labels, item: Ints, operands: Operands
    ) -> None:
        """Write what each prior counts, to be summed when all shards are written."""
        request_of = np.repeat(np.arange(len(requests)), np.diff(requests.start))
        sides = OperandRows.pairs(self.schema, operands, self.item_operands, request_of, item)
        for n, (name, prior) in enumerate(self.schema.priors().items()):
            if prior.events is None:
                counted = prior.count(requests.rows, self.data, labels, sides)
                write_counts(self.spill, n, shard, counted, self.start.periods.get(name, NEVER))


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
