"""The first pass of packing: encoders are fitted, rows of items and users written; and how later tasks read these."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from corank.core.arrays import (
    read_frame,
    write_array,
    write_arrays,
    write_frame,
    write_row_vectors,
    write_shared,
)
from corank.core.errors import name_rows
from corank.data.event_tables import EventColumns
from corank.data.log_rows import log_splits
from corank.data.packed.shard import row_features
from corank.data.packing.fit_encoders import Fitted, MeasuredColumn, fit_features
from corank.data.packing.sources import PackSources
from corank.data.packing.state import write_counts_of_values, write_ids
from corank.data.packing.workspace import PackWorkspace
from corank.data.point_in_time import VersionedRows
from corank.engine.base import Engine, SentByFields
from corank.features.encoders import Encoders, assemble_rows
from corank.features.log_schema import FROM, ID
from corank.features.operands import Operands
from corank.features.row_encoder import EncodedColumns, RowEncoder
from corank.features.schema import Schema, events_table

_ENCODERS, _USERS = "encoders", "users.arrow"
"""Encoders without those of derived features, and the rows of users, in the spill."""


@dataclass(frozen=True)
class PackedTables(SentByFields):
    """What the first pass wrote, mapped when it is read first."""

    schema: Schema
    folder: Path
    """Of the packed data."""
    spill: Path

    @cached_property
    def encoders(self) -> Encoders:
        """Those of the features that are read from a column."""
        return Encoders.load(self.spill / _ENCODERS, self.schema, derived=False)

    @cached_property
    def items(self) -> VersionedRows:
        """The rows of items."""
        keys = read_frame(self.folder / "items" / "keys.arrow")
        return VersionedRows(keys.rename({"item": ID, "valid_from": FROM}))

    @cached_property
    def item_operands(self) -> Operands:
        """The operands of the rows of `items`."""
        wanted = self.schema.operand_names("item")
        return Operands.load(self.folder / "items" / "operands", wanted, len(self.items.frame))

    @cached_property
    def users(self) -> VersionedRows:
        """The rows of the log's users."""
        return VersionedRows(read_frame(self.spill / _USERS))


def write_first_pass(inputs: PackSources, workspace: PackWorkspace) -> int:
    """Fit encoders, and write items and users. Returns how many users have no row in `users`."""
    schema, folder, spill = inputs.schema, workspace.packed, workspace.spill
    item_ids, user_ids, logged = inputs.read_ids(spill / "ids", workspace.engine)
    items = inputs.read_items(item_ids["value"], logged)
    users, absent = inputs.read_users(user_ids["value"])
    write_ids(folder, "items", item_ids)
    write_ids(folder, "users", user_ids)
    if absent:
        workspace.report(
            f"users: {absent:,} of {len(users.ids):,} users of the log have no row; features are missing"
        )
    fitted, tallies = _fit_encoders(inputs, spill / "fit", workspace.engine)
    encoders = Encoders(schema, fitted)
    write_counts_of_values(folder, schema, tallies)
    for name, size in encoders.sizes.items():
        workspace.report(f"{name}: {size:,} embedding rows")
    _write_items(inputs, folder / "items", encoders, items)
    write_frame(folder / "users.arrow", users.ids.values.alias("user").to_frame())
    write_frame(spill / _USERS, users.frame)
    encoders.save(spill / _ENCODERS)
    return absent


def _fit_encoders(inputs: PackSources, spill: Path, engine: Engine) -> Fitted:
    """Fit the encoder of every feature of a column. Rows are counted before duplicates are dropped.

    Raises DataError for values that a feature's kind cannot encode; it names the feature.
    """
    data, schema, log, start = inputs.data, inputs.schema, inputs.log, inputs.start
    tables = {"items": inputs.items, "users": inputs.users}
    training = log_splits(log, data)["train"]
    columns = {}
    for name, source in inputs.sources.items():
        if schema.table_of(name) != name:
            continue  # a history has the encoder of its items
        column, feature = schema.column(name), schema.columns()[name]
        if source == "events":
            named = str(events_table(schema, name))
            moment = inputs.events[named].moment(EventColumns.of(data.events[named], data).time)
            before = (moment < data.training_end()) & (moment >= start.since)
            # a list of one value, since the feature reads lists
            one = pl.concat_list(pl.col(column))
            columns[name] = feature, MeasuredColumn(inputs.events[named], one, before, moment)
            continue
        own_id = (source, column) in {("items", data.item), ("users", data.user)}
        table = (None if own_id else tables.get(source)) or log
        of_log = (training, log.moment(data.time)) if table is log else ()
        columns[name] = feature, MeasuredColumn(table, pl.col(column), *of_log)
    return fit_features(columns, spill, engine, start, schema, inputs.until)


def _write_items(inputs: PackSources, folder: Path, encoders: Encoders, items: VersionedRows) -> None:
    """Write a row for every version of an item."""
    key, schema = inputs.data.item, inputs.schema
    read = encode_versions(RowEncoder(encoders, "item"), items, key)
    rows = assemble_rows(row_features(schema, "item", derived=False), read.features, len(items.frame))
    write_arrays(folder, {"ids": rows.ids, "numbers": rows.numbers})
    for n, values in enumerate(rows.lists):
        write_shared(folder, n, values)
    write_row_vectors(folder, [values.share_repeats() for values in rows.vectors])
    write_frame(folder / "keys.arrow", items.frame.select(item=ID, valid_from=FROM))
    for name in inputs.item_columns:
        write_array(folder / f"column.{name}.npy", items.frame[name].cast(pl.Float32).to_numpy())
    read.operands.save(folder / "operands")


def encode_versions(encoder: RowEncoder, versions: VersionedRows, key: str) -> EncodedColumns:
    """Encode the columns of all rows of items or users; `key` is that of the id. Raises DataError."""
    with name_rows(lambda row: f"{key}={versions.frame[ID][row]!r}"):
        return encoder.encode(versions.columns(key), len(versions.frame))
