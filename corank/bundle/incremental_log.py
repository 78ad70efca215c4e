"""A newer log than a bundle's: what its priors have not counted yet.

Letters: C candidates.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError
from corank.core.time import MILLISECOND
from corank.core.types import Longs, Report
from corank.data.as_of import VersionedRows
from corank.data.column_sources import Source
from corank.data.log_rows import log_columns, request_columns
from corank.data.tables import Table
from corank.data.validate import check_labels, check_weight
from corank.features.encoders import Encoders
from corank.features.labels import Labels, known
from corank.features.log_schema import DataSettings
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands
from corank.features.row_columns import ITEM, ROW, TIME, USER, user_column
from corank.features.schema import Schema


@dataclass(frozen=True)
class RefreshSources:
    """What a bundle is refreshed by."""

    log: str | list[str]
    items: str | list[str] | None = None
    users: str | list[str] | None = None
    base: Path = Path()
    """Relative paths begin here."""
    until: int | None = None
    """The log is complete until then, ms UTC; its last row unless given."""


@dataclass(frozen=True)
class IncrementalLog:
    """Its exposed candidates that some prior has not counted, repeats dropped, in the order of the log."""

    data: DataSettings
    """Of what was read: no scores, and of the labels those that priors count."""
    rows: pl.DataFrame
    """As of `requests.columns`, numbered by `@row`: (C,)."""
    labels: Labels
    sides: OperandRows
    """The operands of users, contexts and items: (C,)."""
    first: int
    """When the log begins, ms UTC."""
    until: int
    """Until when it is complete."""


def read_incremental_log(
    newer: RefreshSources,
    manifest: BundleManifest,
    encoders: Encoders,
    records: ItemRecords,
    since: int,
    report: Report,
) -> IncrementalLog:
    """Read and check a log, for snapshots that were taken at `since` (ms UTC) or later. Raises DataError."""
    data, log = _needed(manifest), Table.scan("log", newer.log, newer.base)
    keys = [*data.request, data.user, data.item]
    log.require([*keys, data.time, *(c for c in (data.level, data.weight) if c)])
    log.require(label.column for label in data.labels.values())
    log.check_whole(keys)
    first, last = _ends(log, data)
    check_labels(log, data)
    check_weight(log, data)
    rows = _exposed(log, data, manifest, since)
    _check_item(log, data, rows, records)
    sides = _sides(rows, data, manifest, encoders, records, newer, report)
    return IncrementalLog(
        data, rows, known(rows, data), sides, first, last if newer.until is None else newer.until
    )


def _needed(manifest: BundleManifest) -> DataSettings:
    held, names = manifest.data.labels, set()
    for prior in manifest.declared.priors().values():
        label = prior.label
        while label is not None:
            names.add(label)
            label = held[label].given
    labels = {name: label for name, label in held.items() if name in names}
    return manifest.data.model_copy(update={"labels": labels, "scores": {}, "position": None, "columns": []})


def _ends(log: Table, data: DataSettings) -> tuple[int, int]:
    """When the log begins and ends, ms UTC. Raises DataError where it is empty, or lacks a user, an item or a time."""
    time = log.moment(data.time)
    nulls = pl.any_horizontal(pl.col(data.user).is_null(), pl.col(data.item).is_null(), time.is_null())
    found = log.collect(log.frame.select(time.min().alias("first"), time.max().alias("last"), nulls.any()))
    first, last, lacking = found.row(0)
    if lacking:
        raise DataError("data.log: a user, an item or a time is null; every candidate needs one")
    if first is None:
        raise DataError("data.log: the log is empty")
    return int(first), int(last)


def _prior_operands(schema: Schema) -> OperandNames:
    """What priors count by of requests."""
    derived = schema.derived()
    return OperandNames.of(schema, "query", [derived[name] for name in schema.priors()])


def _sources(log: Table, manifest: BundleManifest) -> dict[str, Source]:
    """Of the log's columns that priors count by."""
    schema, found = manifest.declared, {}
    for name in _prior_operands(schema).names:
        if manifest.sources[name] == "log" or schema.column(name) == manifest.user:
            log.require([schema.column(name)])
            found[name] = "log"
    return found  # type: ignore[return-value]


def _exposed(log: Table, data: DataSettings, manifest: BundleManifest, since: int) -> pl.DataFrame:
    late = max(prior.known_after(data) for prior in manifest.declared.priors().values())
    begin = since - late // MILLISECOND
    shown = pl.lit(True) if data.level is None else pl.col(data.level).cast(pl.String) == data.levels[-1]
    read = log_columns(log, data, manifest.declared, _sources(log, manifest))
    rows = log.collect(log.frame.filter(shown, log.moment(data.time) >= begin).select(read))
    rows = rows.unique(maintain_order=True)
    once = [*request_columns(data).values(), ITEM]
    twice = rows.filter(rows.select(once).is_duplicated())
    if len(twice):
        where = {column: twice[name][0] for column, name in request_columns(data).items()}
        spelt = ", ".join(f"{column}={value!r}" for column, value in where.items())
        raise DataError(
            f"data.log: request {spelt}: {data.item}={twice[ITEM][0]!r} has two rows that differ; keep one"
        )
    return rows.with_row_index(ROW)


def _check_item(log: Table, data: DataSettings, rows: pl.DataFrame, records: ItemRecords) -> None:
    if rows[ITEM].dtype != records.ids.values.dtype:
        raise log.unfit(data.item, f"{records.ids.values.dtype}, as in the bundle")


def _sides(
    rows: pl.DataFrame,
    data: DataSettings,
    manifest: BundleManifest,
    encoders: Encoders,
    records: ItemRecords,
    newer: RefreshSources,
    report: Report,
) -> OperandRows:
    schema = manifest.declared
    wanted = _prior_operands(schema)
    frame = rows.hstack(_of_users(rows, data, manifest, wanted, newer))

    def column(name: str) -> pl.Series:
        values = frame[user_column(name) if user_column(name) in frame.columns else schema.column(name)]
        encoders.encode(
            name, values
        )  # for its errors: values of another type would be counted, and never found
        return values

    query = Operands.of(encoders, wanted, column, len(rows))
    record = records.ids.find(rows[ITEM])
    strange = np.flatnonzero(record < 0)
    if len(strange):
        count = rows[ITEM].gather(strange).n_unique()
        report(
            f"log: {count:,} items have no record; they are counted by their id alone (give the items, too)"
        )
    item = _item_operands(records, encoders, manifest, record, rows[ITEM])
    return OperandRows.pairs(schema, query, item, np.arange(len(rows)), None)


def _of_users(
    rows: pl.DataFrame,
    data: DataSettings,
    manifest: BundleManifest,
    wanted: OperandNames,
    newer: RefreshSources,
) -> pl.DataFrame:
    """What priors count by of the users, as of each row: columns `@user <feature>`. Raises DataError."""
    schema = manifest.declared
    names = {
        name: schema.column(name)
        for name in wanted.names
        if manifest.sources[name] == "users" and schema.column(name) != manifest.user
    }
    if not names:
        return pl.DataFrame()
    if newer.users is None:
        raise DataError(
            f"features.{next(iter(names))}: a prior counts by it, and it is of the users; give them, too"
        )
    table = Table.scan("users", newer.users, newer.base)
    users, _ = VersionedRows.read(
        table, data.user, list(dict.fromkeys(names.values())), rows[USER].unique(), only=True
    )
    held = users.frame[users.find(rows[USER], rows[TIME].to_numpy())]
    return held.select(pl.col(column).alias(user_column(name)) for name, column in names.items())


def _item_operands(
    records: ItemRecords, encoders: Encoders, manifest: BundleManifest, record: Longs, ids: pl.Series
) -> Operands:
    """Of the rows' items; of one without a record its id is known, and all else missing."""
    schema, strange = manifest.declared, np.flatnonzero(record < 0)
    alone, nothing = ids.gather(strange), pl.Series([None] * len(strange), dtype=pl.Null)

    def column(name: str) -> pl.Series:
        return alone if schema.column(name) == manifest.item else nothing

    bare = Operands.of(encoders, OperandNames.of(schema, "item"), column, len(strange))
    if len(strange) == len(record):
        return bare
    held = records.operands.take(np.maximum(record, 0))
    return held.with_rows(strange, bare) if len(strange) else held
