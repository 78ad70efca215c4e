"""What packing reads: the tables of a config, surveyed, and the rows of items and users that it needs."""

from dataclasses import dataclass

import polars as pl

from corank.core.errors import DataError
from corank.core.time import floor_times
from corank.data.as_of import VersionedRows
from corank.data.log_rows import log_columns
from corank.data.tables import Table
from corank.data.validate import Source, Survey, feature_columns
from corank.features.log_schema import DataSettings
from corank.features.row_columns import FROM, ID, TIME
from corank.features.schema import Schema

BATCH = 2**19
"""Rows read at a time."""


@dataclass(frozen=True)
class Inputs:
    """The tables of a config, surveyed."""

    data: DataSettings
    schema: Schema
    found: dict[str, Source]
    log: Table
    items: Table | None
    users: Table | None
    truth: Table | None
    survey: Survey
    values: dict[str, Source]
    """The table of each of the data's `columns`."""

    def columns(self) -> list[pl.Expr]:
        return log_columns(self.log, self.data, self.schema, self.found)

    def needed(self) -> int:
        """Bytes that packing takes on disk, about: a copy of the log's columns, and what is made of it."""
        some = self.log.collect(self.log.frame.select(self.columns()).head(1000))
        return int(some.estimated_size() / len(some) * self.survey.rows * 2)

    def snapshots(self) -> pl.DataFrame:
        """The items that are candidates, and since when their newest snapshots of priors were there: `@id`, `@from`."""
        data, log = self.data, self.log
        grids = {prior.every for prior in self.schema.priors("item").values()}
        columns = [log.key(data.item).alias(ID), log.moment(data.time).alias(TIME)]
        kind = log.frame.select(columns).collect_schema()[ID]
        seen = pl.DataFrame(schema={ID: kind, FROM: pl.Int64})
        if not grids:
            return seen
        for batch in log.batches(columns, self.survey.rows, BATCH):
            times = batch[TIME].to_numpy()
            cuts = [
                batch.select(ID, pl.Series(FROM, floor_times(times, every, data.timezone))) for every in grids
            ]
            seen = pl.concat([seen, *cuts]).unique()
        return seen

    def item_versions(self) -> VersionedRows:
        """The rows of items, of those of the log at least. Raises DataError where one has none."""
        data, log, table = self.data, self.log, self.items
        seen = log.distinct(data.item)
        if table is None:
            return VersionedRows.from_ids(seen)
        names = [c for c in feature_columns(self.schema, self.found, "items") if c != data.item]
        names += [c for c, source in self.values.items() if source == "items" and c not in names]
        items, absent = VersionedRows.read(table, data.item, names, seen, only=False)
        if len(absent):
            shown = ", ".join(map(repr, absent.head(5).to_list()))
            raise DataError(
                f"data.items: {len(absent)} items of the log have no row, such as {shown}; add them"
            )
        return items

    def user_versions(self) -> tuple[VersionedRows, int]:
        """The rows of the log's users, and how many have none."""
        data, log, table = self.data, self.log, self.users
        seen = log.distinct(data.user)
        if table is None:
            return VersionedRows.from_ids(seen), 0
        names = [c for c in feature_columns(self.schema, self.found, "users") if c != data.user]
        users, absent = VersionedRows.read(table, data.user, names, seen, only=True)
        return users, len(absent)
