"""A logged request in the form that a service receives: raw columns with the values of its time."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.hash_index import Keys
from corank.data.event_tables import EventColumns, open_events
from corank.data.log_rows import log_columns, request_columns, scan_log
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.data.request_columns import RequestColumns
from corank.data.tables import Table
from corank.data.vector_files import with_vector_files
from corank.data.versioned_tables import read_versions
from corank.evaluation.predictions import require_split
from corank.features.encoding import FIRST_KNOWN, Vocabulary
from corank.features.history import History, to_times
from corank.features.history_events import Events, timed_histories
from corank.features.log_schema import ITEM, TIME, DataSettings, find_events, read_labels
from corank.features.schema import Schema
from corank.training.run import Run


def logged_request(run: Run, split: str, number: int, packed: PackedDataset | None = None) -> dict[str, Any]:
    """A logged request as a `REQUEST.json` document.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        number: index of the request in the packed split, from 0.
        packed: the run's packed data; opened now unless given.

    Raises:
        DataError: if the split or the request does not exist, or the tables cannot be read.
    """
    packed = packed or run.packed()
    require_split(packed, split)
    shard, row = _locate(packed.splits[split], split, number)
    data, schema = run.config.data, run.config.declared
    log = scan_log(data, run.base)
    key = shard.request_key(row)
    same = [log.key(column) == value for column, value in key.items()]
    rows = log.collect(log.frame.filter(same).unique(subset=[data.item], keep="first", maintain_order=True))
    first = rows.row(0, named=True)
    time = int(shard.time[row])
    columns = RequestColumns.of(schema, data, packed.item_columns)
    user = {"id": first[data.user]} | _user(run, columns.user, first, time)
    cross = [*columns.cross, *columns.values]
    described = [{"id": c[data.item]} | {name: c[name] for name in cross} for c in rows.iter_rows(named=True)]
    return {
        "user": user | _histories(run, packed, log, first, time),
        "context": {c: _to_json(first[c]) for c in columns.context},
        "time": time,
        "candidates": described if cross else [c["id"] for c in described],
        "trace": True,
    }


def _locate(shards: Sequence[Shard], split: str, number: int) -> tuple[Shard, int]:
    ahead = number
    for shard in shards:
        if ahead < len(shard):
            return shard, ahead
        ahead -= len(shard)
    raise DataError(f"no request {number} in '{split}': it has {sum(map(len, shards))}, numbered from 0")


def _user(run: Run, wanted: Sequence[str], first: dict[str, Any], time: int) -> dict[str, Any]:
    """The user's columns at a time: from the table `users` if it has them, otherwise from the log."""
    data = run.config.data
    values = {c: _to_json(first[c]) for c in wanted if c in first}
    if data.users is None:
        return values
    users = Table.scan("users", data.users, run.base, data.nulls)
    users = with_vector_files(users, data.user, run.config.declared, run.base)
    columns = [c for c in wanted if c in users.types]
    if not columns:
        return values
    key = pl.String if users.types[data.user] == pl.String else pl.Int64
    id_ = pl.Series(data.user, [first[data.user]]).cast(key)
    versions, _ = read_versions(users, data.user, columns, id_, only=True)
    row = int(versions.find(id_, np.array([time]))[0])
    version = versions.frame.select(columns).row(row, named=True)
    return values | {column: _to_json(value) for column, value in version.items()}


def _to_json(value: Any) -> Any:
    """Write a time as ISO 8601, and the times of a list as ms since 1970 UTC."""
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, list) or not any(isinstance(one, date) for one in value):
        return value
    return to_times(pl.Series(value), "a list of times")[0].tolist()


def _histories(
    run: Run, packed: PackedDataset, log: Table, first: dict[str, Any], time: int
) -> dict[str, list[Any]]:
    """By history, the items of the user's events before its cut, oldest first; with times if these are read."""
    data, schema = run.config.data, run.config.declared
    attended = (stage.attended(schema) for stage in run.config.stages)
    timed = timed_histories(schema, (one.history for one in attended if one and one.ages))
    user = first[data.user]
    histories: dict[str, list[Any]] = {}
    for name, history in schema.histories().items():
        beside = schema.column_names(f for f, of in schema.parallels().items() if of == name)
        if history.table is not None:
            events = _listed(run, history, user, beside)
        elif history.lists is None:
            remembered = None if packed.manifest.continued is None else _remembered(packed, history, user)
            events = _exposed(log, data, history, user) if remembered is None else remembered
        else:
            continue
        timeline = Events.of_times(events[TIME].to_numpy(), np.array([0, len(events)]))
        (start,), (length,) = timeline.cut(history, np.zeros(1, np.int64), np.array([time]), data)
        kept = events[int(start) : int(start + length)]
        if beside or name in timed:
            columns = pl.col(ITEM).alias("id"), pl.col(TIME).alias("time")
            histories[name] = kept.select(*columns, *beside).to_dicts()
        else:
            histories[name] = kept[ITEM].to_list()
    return histories


def _remembered(packed: PackedDataset, history: History, user: Any) -> pl.DataFrame | None:
    """A user's events from packed data, whose log may be deleted, and which drop ids after `keep_days`.

    None if an id is unknown: that of a hashed item that the table of items lacks.
    """
    events = packed.events[history.events]
    owner = int(Keys(packed.users).find(pl.Series([user], dtype=packed.users.dtype))[0])
    of_user = slice(int(events.offsets[owner]), int(events.offsets[owner + 1]))
    ids = packed.item_keys["item"].unique(maintain_order=True)
    encoder = packed.encoders.fitted[packed.schema.table_of(history.of)]
    known = encoder.values if isinstance(encoder, Vocabulary) else None
    unseen = _unseen(ids if known is None or not len(known) else pl.concat([ids, known]))
    ordinals = events.ordinals[of_user].tolist()
    if known is None and min(ordinals, default=0) < 0:
        return None
    named = known if known is not None else ids
    items = [
        ids[ordinal] if ordinal >= 0 else named[code - FIRST_KNOWN] if code >= FIRST_KNOWN else unseen
        for ordinal, code in zip(ordinals, events.items[of_user].tolist(), strict=True)
    ]
    return pl.DataFrame({ITEM: pl.Series(items, dtype=ids.dtype), TIME: events.times[of_user]})


def _unseen(ids: pl.Series) -> int | str:
    """An id that is none of these."""
    if ids.dtype != pl.String:
        return int(ids.cast(pl.Int64).to_numpy().min(initial=0)) - 1
    return "?" * (1 + int(ids.str.len_chars().to_numpy().max(initial=0)))


def _exposed(log: Table, data: DataSettings, history: History, user: Any) -> pl.DataFrame:
    """The user's exposures that are events, in the order of time."""
    mine = log.frame.filter(pl.col(data.user) == user)
    rows = log.collect(mine.select(log_columns(log, data, Schema({}), {})))
    events = rows.filter(find_events(history.event, rows, read_labels(rows, data), data))
    keys = [*request_columns(data).values(), ITEM, TIME]
    return events.unique(keys, keep="first", maintain_order=True).sort(TIME, maintain_order=True)


def _listed(run: Run, history: History, user: Any, beside: Sequence[str]) -> pl.DataFrame:
    """The user's events of a table of `data.events`, in the order of time."""
    data, name = run.config.data, str(history.table)
    table, columns = open_events(data, run.base)[name], EventColumns.of(data.events[name], data, history)
    mine = table.frame.filter(table.key(columns.user) == user)
    wanted = [*columns.select(table), *(pl.col(column) for column in beside)]
    return table.collect(mine.select(wanted)).sort(TIME, maintain_order=True)
