"""The requests of a log as a service would receive them: raw columns as known at their time, histories of the log."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
import pyarrow as pa

from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError
from corank.core.ragged import concat_ranges
from corank.data.event_tables import EventColumns, open_given_events
from corank.data.log_rows import constant_columns, log_columns, request_columns
from corank.data.packing.grouping import GroupedRequests
from corank.data.tables import Table
from corank.data.versioned_tables import read_versions
from corank.features.history import History
from corank.features.history_events import Events
from corank.features.log_schema import (
    ITEM,
    LEVEL,
    PROPENSITY,
    ROW,
    TIME,
    USER,
    WEIGHT,
    DataSettings,
    Label,
    find_events,
    label_column,
    read_labels,
    read_levels,
    value_column,
)
from corank.funnel.request import Request


@dataclass(frozen=True)
class RequestTables:
    """A log, what a bundle reads of it, and the table of users."""

    log: Table
    users: Table | None
    manifest: BundleManifest
    data: DataSettings
    """The bundle's settings, of which what prediction does not need is left out."""
    events: Mapping[str, Table] = field(default_factory=dict)
    """By name, the tables of events that histories are made of."""

    @classmethod
    def open(
        cls,
        manifest: BundleManifest,
        log: Table,
        users: Table | None,
        events: Mapping[str, str | list[str]] | None = None,
        measured: bool = False,
    ) -> Self:
        """Check the tables of a bundle's requests.

        Args:
            manifest: of the bundle.
            log: the table of logged candidates.
            users: the table of users, if the bundle reads one.
            events: by name of `data.events`, the files of the tables that the bundle's histories are made of.
            measured: whether what is needed to measure predictions is read, too: weight and propensity, if the log
                has them.

        Raises DataError: a column is missing, or a table that the bundle reads is not given, or one that it does not.
        """
        data = needed_settings(manifest, log, measured)
        opened = cls(log, users, manifest, data, open_event_tables(manifest, events or {}))
        logged, declared = list(manifest.request_columns.cross), manifest.declared
        for name in declared.columns("query"):
            logged += declared.columns_of(name) if manifest.sources.get(name) == "log" else []
        levels = [data.level] if data.level is not None else []
        labels = [label.column for label in data.labels.values()]
        log.require(
            [*data.request, data.user, data.item, data.time, *logged, *levels, *labels, *data.columns]
        )
        wanted = opened.user_columns
        if wanted and users is None:
            raise DataError(f"--users: the bundle reads {', '.join(wanted)} from a table of users; name it")
        if users is not None:
            if not wanted:
                raise DataError("--users: the bundle reads nothing from a table of users; leave it out")
            users.require([data.user, *wanted])
        return opened

    @property
    def user_columns(self) -> list[str]:
        """As `list_user_columns`."""
        return list_user_columns(self.manifest)

    @property
    def together(self) -> list[str]:
        """The columns of `rows` by which they are spread: a user's requests see one another if there are histories."""
        histories = self.manifest.declared.histories().values()
        derived = any(history.lists is None and history.table is None for history in histories)
        return [USER] if derived else list(request_columns(self.data).values())

    def rows(self) -> list[pl.Expr]:
        """Select what is needed of a row of the log."""
        return log_columns(self.log, self.data, self.manifest.declared, self.manifest.sources)

    def group(self, rows: pl.DataFrame) -> "RequestGroup":
        """Bring the rows of a partition together by request. Raises DataError for rows that contradict one another."""
        constant = constant_columns(self.data, self.manifest.declared, self.manifest.sources)
        return RequestGroup(self, GroupedRequests.group(rows, self.data, constant))


def open_event_tables(manifest: BundleManifest, given: Mapping[str, str | list[str]]) -> dict[str, Table]:
    """Open the tables that histories are made of. Raises DataError if one is missing, or given in vain."""
    return open_given_events(manifest.data, given, list_event_tables(manifest), "histories", Path())


def list_event_tables(manifest: BundleManifest) -> list[str]:
    """List the tables of events that histories of a bundle are made of."""
    return [*dict.fromkeys(h.table for h in manifest.declared.histories().values() if h.table)]


def list_user_columns(manifest: BundleManifest) -> list[str]:
    """List the columns of the table of users that a bundle reads."""
    declared = manifest.declared
    read = [c for n, source in manifest.sources.items() if source == "users" for c in declared.columns_of(n)]
    return [column for column in dict.fromkeys(read) if column != manifest.data.user]


def needed_settings(manifest: BundleManifest, log: Table, measured: bool = False) -> DataSettings:
    """The settings of the log without labels that neither it has nor a history needs, and the like.

    Weight and propensity are of use, if it has them, where predictions are `measured`.
    """
    data, histories, labels = manifest.data, manifest.declared.histories().values(), dict[str, Label]()
    for name in data.labels:
        chain = _with_given(data, name)
        if all(label.column in log.types for label in chain.values()):
            labels |= chain
    for history in histories:
        if history.event is not None:
            labels |= _with_given(data, history.event)
    named = {name for stage in manifest.stages for name in stage.ordering(data.columns).names}
    columns = [c for c in manifest.request_columns.values if c in named or c in log.types]
    level = data.level if histories or data.level in log.types else None
    named_columns = {"weight": data.weight, "propensity": data.propensity}
    unused: dict[str, Any] = {"position": None, "scores": {}, "propensity_weight": None}
    unused |= {key: c if measured and c in log.types else None for key, c in named_columns.items()}
    return data.model_copy(update=unused | {"labels": labels, "level": level, "columns": columns})


def add_unknown_labels(manifest: BundleManifest, log: Table) -> Table:
    """Add the labels that histories are made by and a log lacks, as unknown: its rows are then none of their events."""
    events = (
        history.event for history in manifest.declared.histories().values() if history.event is not None
    )
    labels = (label.column for event in events for label in _with_given(manifest.data, event).values())
    absent = {column: pl.lit(None, pl.Int8) for column in labels if column not in log.types}
    if not absent:
        return log
    known = log.keep(partial(_add_columns, absent))
    return replace(known, types=known.frame.collect_schema())


def _add_columns(columns: Mapping[str, pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(**columns)


def _with_given(data: DataSettings, name: str) -> dict[str, Label]:
    """A label, and those that it takes to be known."""
    labels = {name: data.labels[name]}
    while (condition := data.labels[name].given) is not None:
        name = condition
        labels[name] = data.labels[name]
    return labels


@dataclass(frozen=True)
class RequestGroup:
    """R whole requests of a log, and all others of their users if there are histories."""

    log: RequestTables
    grouped: GroupedRequests

    def keys(self) -> pl.DataFrame:
        """The columns that tell candidates apart, and what the log says of them, named as there: (C,).

        A label is 1, 0, or null where it is unknown, as it is for all that was not shown.
        """
        data, rows = self.log.data, self.grouped.rows
        columns = {column: pl.col(name) for column, name in request_columns(data).items()}
        columns |= {data.user: pl.col(USER), data.item: pl.col(ITEM)}
        for name, known in read_labels(rows, data).items():
            columns.setdefault(data.labels[name].column, pl.lit(pl.Series(known)).replace(-1, None))
        if data.level is not None:
            codes = range(len(data.levels))
            level = pl.col(LEVEL).replace_strict(codes, data.levels, return_dtype=pl.String)
            columns.setdefault(data.level, level)
        return rows.select(**columns)

    def facts(self) -> pl.DataFrame:
        """What an evaluation must know of candidates, in columns of `row_columns`: (C,).

        Request key, user, item, time, weight, propensity if the log has it, NaN where it is null, the code of the
        level, and labels: 1, 0, or −1 where unknown.
        """
        data, rows = self.log.data, self.grouped.rows
        keys = [*request_columns(data).values(), USER, ITEM, TIME]
        weight = pl.lit(1, dtype=pl.Float32) if data.weight is None else pl.col(WEIGHT)
        labels = {
            label_column(name): pl.lit(pl.Series(known)) for name, known in read_labels(rows, data).items()
        }
        level = pl.lit(pl.Series(read_levels(rows, data)))
        drawn = [] if data.propensity is None else [pl.col(PROPENSITY).fill_null(np.nan)]
        return rows.select(*keys, *drawn, weight.alias(WEIGHT), level.alias(LEVEL), **labels)

    def batches(self, most_requests: int, most_candidates: int) -> Iterator["RequestBatch"]:
        """Yield the requests in the order of time, some at once: so few, of so few candidates, or one."""
        first, start = self.grouped.first_rows, self.grouped.start
        columns = self._users(first) | self._histories(first)
        begin = 0
        while begin < len(first):
            end = int(np.searchsorted(start, start[begin] + most_candidates, side="right")) - 1
            end = min(max(end, begin + 1), begin + most_requests, len(first))
            bounds = start[begin : end + 1].tolist()
            user = {c: values[begin:end].to_list() for c, values in columns.items()}
            yield RequestBatch(bounds, self._requests(first[begin:end], user, bounds))
            begin = end

    def _requests(
        self, first: pl.DataFrame, columns: Mapping[str, list[Any]], bounds: list[int]
    ) -> list[Request]:
        """Some requests.

        Args:
            first: the first candidate of each.
            columns: of their users, a value each.
            bounds: where the candidates of each begin, and the end.
        """
        wanted, requests = self.log.manifest.request_columns, []
        candidates = self._candidates(slice(bounds[0], bounds[-1]), wanted.cross, self.log.data.columns)
        for n, row in enumerate(first.iter_rows(named=True)):
            user = {"id": row[USER]} | {c: row[c] for c in wanted.user if c in row}
            user |= {c: values[n] for c, values in columns.items()}
            context = {c: row[c] for c in wanted.context}
            own = candidates[bounds[n] - bounds[0] : bounds[n + 1] - bounds[0]]
            requests.append(Request(user, context, row[TIME], own))
        return requests

    def _candidates(self, rows: slice, cross: Sequence[str], values: Sequence[str]) -> list[Any]:
        """The ids of some rows, with the columns of the pair if there are any."""
        some = self.grouped.rows[rows]
        if not (cross or values):
            return some[ITEM].to_list()
        columns = (
            {"id": pl.col(ITEM)}
            | {c: pl.col(c) for c in cross}
            | {c: pl.col(value_column(c)) for c in values}
        )
        return some.select(**columns).to_dicts()

    def _users(self, first: pl.DataFrame) -> dict[str, pl.Series]:
        """The columns of the table of users at the requests' times: (R,) each."""
        table, columns, key = self.log.users, self.log.user_columns, self.log.data.user
        if table is None:
            return {}
        versions, _ = read_versions(table, key, columns, first[USER].unique(), only=True)
        rows = versions.find(first[USER], first[TIME].to_numpy())
        return {c: versions.frame[c].gather(rows) for c in columns}

    def _histories(self, first: pl.DataFrame) -> dict[str, pl.Series]:
        """By history, what each request sees of its user's events, the oldest first: (R,) each."""
        log = self.log
        return cut_histories(log.manifest, log.data, log.events, first, self.grouped.rows)


class RequestBatch(NamedTuple):
    """Requests that follow one another."""

    bounds: list[int]
    """Where the candidates of each begin among the rows, and the end."""
    requests: list[Request]

    def each(self) -> Iterator["RequestBatch"]:
        """Yield each request alone."""
        for bounds, request in zip(pairwise(self.bounds), self.requests, strict=True):
            yield RequestBatch([*bounds], [request])


def cut_histories(
    manifest: BundleManifest,
    data: DataSettings,
    tables: Mapping[str, Table],
    requests: pl.DataFrame,
    logged: pl.DataFrame | None,
) -> dict[str, pl.Series]:
    """Cut the histories that are made of a log or of tables of events: by name a list for each request, (R,).

    Args:
        manifest: of the bundle.
        data: the settings of the log.
        tables: those of events, by name.
        requests: USER and TIME: (R,).
        logged: candidates of their users, as in `log_columns`; None if no history is made of them.

    Returns:
        The events of each request, the oldest first: an item's id, or `id`, `time` and attributes.
    """
    schema, cut = manifest.declared, dict[str, pl.Series]()
    labels = None if logged is None else read_labels(logged, data)
    for name, history in schema.histories().items():
        beside = schema.column_names(schema.parallels_of(name))
        if history.table is not None:
            columns = EventColumns.of(data.events[history.table], data, history)
            events = _read_events(tables[history.table], columns, requests[USER], beside)
        elif history.lists is None and logged is not None and labels is not None:
            events = logged.filter(find_events(history.event, logged, labels, data))
        else:
            continue
        seen: list[str | pl.Expr] = [ITEM]
        if beside or name in manifest.timed_histories:
            seen = [pl.struct(pl.col(ITEM).alias("id"), pl.col(TIME).alias("time"), *beside)]
        cut[name] = _cut_history(history, requests, events, seen, data)
    return cut


def _read_events(
    table: Table, columns: EventColumns, users: pl.Series, beside: Sequence[str]
) -> pl.DataFrame:
    """Read the events of some users: USER, ITEM, TIME, ROW, and the columns `beside`."""
    wanted = [*columns.select(table), *map(pl.col, beside)]
    chosen = pl.LazyFrame({USER: users.unique()})
    numbered = table.frame.select(wanted).with_row_index(ROW)
    return table.collect(numbered.join(chosen, on=USER, how="semi"))


def _cut_history(
    history: History,
    requests: pl.DataFrame,
    events: pl.DataFrame,
    seen: Sequence[str | pl.Expr],
    data: DataSettings,
) -> pl.Series:
    """Cut a history for R requests from the events of their users: what is `seen` of each."""
    users = requests[USER].unique().sort()
    events = events.sort(USER, TIME, ROW)
    offsets = np.append(events[USER].search_sorted(users).to_numpy().astype(np.int64), len(events))
    start, length = Events.of_times(events[TIME].to_numpy(), offsets).cut(
        history,
        users.search_sorted(requests[USER]).to_numpy().astype(np.int64),
        requests[TIME].to_numpy(),
        data,
    )
    values = events.select(seen).to_series().gather(concat_ranges(start, length))
    ends = pl.Series(np.append(0, np.cumsum(length, dtype=np.int64)))
    lists = pl.Series(pa.LargeListArray.from_arrays(ends.to_arrow(), values.to_arrow()))
    return lists.cast(pl.List(values.dtype))
