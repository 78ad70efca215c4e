"""Predictions of a log by tasks: rows are spread by request, and each partition becomes a file.

Requests from before a bundle's snapshots are predicted by what the packed data know of their time.

Letters: C candidates of a partition · n candidates of a request.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import BundleError, DataError, RequestError
from corank.core.files import atomic_folder
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.time import NEVER, floor_times, format_time
from corank.core.types import Numbers
from corank.data.log_rows import request_columns, scan_log
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.workspace import SpreadRows, read_partition, write_beside
from corank.data.tables import Table, cut_table
from corank.data.validate import check_rows, label_checks, propensity_checks, weight_checks, whole_checks
from corank.data.vector_files import with_vector_files
from corank.engine.base import Engine
from corank.features.log_schema import ITEM, DataSettings, value_column
from corank.features.priors import PriorSnapshots
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.log.log_format import FileColumns
from corank.serving.log_requests import RequestGroup, RequestTables


@dataclass(frozen=True)
class PackedPast:
    """Priors, ages and items at the time of any request, of the packed data that a bundle was exported from."""

    funnel: Funnel
    """Of the bundle."""
    packed: PackedDataset

    def funnel_at(self, request: Request) -> Funnel:
        """The funnel at the time of a request: the bundle's own from its snapshots on. Raises RequestError."""
        time = request.time_ms
        if time >= self._end:
            return self.funnel
        versions = self.packed.item_versions
        index = versions.ids.find(self._named_items(request))
        index = np.unique(index[index >= 0])
        rows = versions.find_at(index, np.full(len(index), time))
        priors = self._priors(time)
        records = ItemRecords.of_packed(self.packed, priors, versions.ids.values.gather(index), rows)
        layer = ItemLayer(records, self.funnel.scorer.parts(records.rows))
        other, encoder = copy(self.funnel), self.funnel.request_encoder
        other.request_encoder = encoder.with_priors(priors).with_items(encoder.items.with_layer(layer))
        return other

    @cached_property
    def _end(self) -> int:
        """Before it some snapshot or item was another, ms UTC."""
        changed = self.packed.item_keys["valid_from"].to_numpy().max(initial=NEVER)
        return max([int(changed), *self.funnel.manifest.priors.values()])

    def _priors(self, time: int) -> PriorSnapshots:
        """The snapshots that are known at a time, those of the bundle at most."""
        priors, last = self.packed.priors, self.funnel.manifest.priors
        cuts = {
            name: min(int(floor_times(np.array([time]), every, priors.timezone)[0]), last[name])
            for name, every in self.packed.schema.snapshots().items()
        }
        return replace(priors, cut=cuts)

    def _named_items(self, request: Request) -> pl.Series:
        """The ids of a request's candidates and of the events of its histories."""
        ids: list[Any] = [one["id"] if isinstance(one, dict) else one for one in request.candidates or []]
        for history in self.funnel.request_encoder.read_query(request).histories.values():
            if (wanted := history.wanted) is not None:
                ids += wanted.ids if wanted.numbers is None else wanted.numbers.tolist()
        return pl.Series(ids, dtype=self.packed.item_versions.ids.values.dtype)


class ScoreColumns(FileColumns, frozen=True):
    """The columns of a table of scores that are no scores."""

    entry: ClassVar[str] = "corank.predictions"
    request: tuple[str, ...]
    """Of the request key."""
    user: str
    item: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, data: DataSettings) -> Self:
        """Those of predictions of a log."""
        labels = dict.fromkeys(label.column for label in data.labels.values())
        return cls(tuple(data.request), data.user, data.item, tuple(labels))


PARTITION = 2**18
"""Candidates of a partition, about. It is of whole requests."""
RANGE = 2**19
"""Rows of a task that spreads the log."""
OpenPacked = Callable[[], PackedDataset]
"""Opens packed data, in any process."""


@dataclass(frozen=True)
class PredictedLog:
    """How much was predicted."""

    requests: int
    candidates: int
    unknown: int
    """Candidates that the bundle does not know; they have no predictions."""


@dataclass(frozen=True)
class PredictPartition:
    """Predicts a partition; its number is the task. A worker gets where the bundle is, and opens it once."""

    bundle: Bundle
    log: RequestTables
    files: Sequence[Path]
    """Those of `SpreadRows`."""
    out: Path
    """Receives a file a partition."""
    packed: OpenPacked | None = None
    """Opens the packed data by which requests are predicted at their time; None: all at the current time."""
    facts: bool = False
    """Whether `RequestGroup.facts` accompany the scores, and the numbers that a value names, in place of its
    `keys`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what was opened: the leases stay with the process that opened the bundle."""
        bundle = Bundle(self.bundle.folder, self.bundle.manifest)
        return type(self), (bundle, self.log, self.files, self.out, self.packed, self.facts)

    @cached_property
    def _funnel(self) -> Funnel:
        return Funnel(self.bundle)

    @cached_property
    def _past(self) -> PackedPast | None:
        return None if self.packed is None else PackedPast(self._funnel, self.packed())

    def __call__(self, n: int) -> dict[str, int]:
        """Write the file of a partition, unless it is empty. Returns the counts of `PredictedLog`. Raises DataError."""
        rows = read_partition(self.files, n)
        if not len(rows):
            return {}
        requests = self.log.group(rows)
        columns, counts = self._predict(requests)
        beside = requests.facts() if self.facts else requests.keys()
        frame = beside.with_columns(
            pl.Series(name, values).fill_nan(None) for name, values in columns.items()
        )
        with write_beside(self.out / f"part-{n:06d}.parquet") as partial:
            frame.write_parquet(partial, metadata=ScoreColumns.of(self.log.data).metadata())
        return counts

    def _predict(self, requests: RequestGroup) -> tuple[dict[str, Numbers], Counter[str]]:
        """Predict each request by the funnel: (C,) each, NaN of unknown items. Raises DataError."""
        rows, counts = requests.grouped.rows, Counter[str]()
        columns: dict[str, Numbers] = {}
        for where, request in requests:
            ids = rows[ITEM][where].to_list()
            try:
                funnel = self._funnel if self._past is None else self._past.funnel_at(request)
                known, outputs, numbers = funnel.predict(request)
            except RequestError as error:
                key = {c: rows[name][where.start] for c, name in request_columns(self.log.data).items()}
                shown = ", ".join(f"{c}={value!r}" for c, value in key.items())
                raise DataError(f"data.log: request {shown}: {error}") from None
            place = {id_: where.start + n for n, id_ in enumerate(ids)}
            at = np.array([place[id_] for id_ in known], dtype=np.int64)
            if self.facts:
                outputs |= {value_column(name): values for name, values in numbers.items()}
            for name, values in outputs.items():
                kept = columns.setdefault(name, np.full(len(rows), np.nan, dtype=values.dtype))
                kept[at] = values
            counts.update(requests=1, candidates=len(ids), unknown=len(ids) - len(known))
        return columns, counts


def predict_log(
    bundle: Location,
    log: str | list[str],
    users: str | None,
    out: Path,
    engine: Engine,
    progress: Progress = lambda done, total: None,
    events: Mapping[str, str] | None = None,
    facts: bool = False,
    packed: OpenPacked | None = None,
    as_served: bool = False,
) -> PredictedLog:
    """Write what every stage of a bundle computes of each candidate of a log, whichever stage would have cut it.

    The same bytes for any engine and number of workers.

    Args:
        bundle: the bundle.
        log: the table of logged candidates, with the columns of the bundle's log.
        users: the table of users, if the bundle reads one.
        out: a folder that is not there or empty. It is written whole or not at all.
        engine: runs the tasks.
        progress: receives partitions done and in all.
        events: by name, the tables of events that the bundle's histories are made of.
        facts: write what an evaluation must know of candidates with their scores, in place of the log's columns.
        packed: opens the packed data that the bundle was exported from, in each worker; rows before the bundle's
            snapshots then get the priors, ages and items of their time.
        as_served: whether rows before the bundle's snapshots may get the priors of now, which count their own labels.

    Raises:
        BundleError: the bundle is damaged, or `out` cannot be written.
        DataError: the tables do not fit the bundle, rows are from before its snapshots, or `out` is taken.
        EngineError: a worker ended again and again.
    """
    opened = Bundle.open(bundle)
    tables = _open_tables(opened.manifest, log, users, events, facts)
    if not as_served:
        _check_times(tables, packed and packed())
    ranges = cut_table(tables.log, RANGE)
    rows = sum(task.rows for task in ranges) * tables.log.per_row
    if not rows:
        raise DataError("data.log: has no rows")
    partitions = -(-rows // PARTITION)
    try:
        with atomic_folder(out) as folder:
            spread = SpreadRows(tables.log, tables.rows(), tables.together, partitions, folder / "spread")
            files = [spread.folder / name for names in engine.run(spread, ranges) for name in names]
            predict = PredictPartition(opened, tables, files, folder, packed, facts)
            counts = sum(
                (Counter(c) for c in engine.run(predict, range(partitions), progress)), Counter[str]()
            )
            shutil.rmtree(spread.folder)
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error}; nothing was written") from None
    return PredictedLog(counts["requests"], counts["candidates"], counts["unknown"])


def _open_tables(
    manifest: BundleManifest,
    log: str | list[str],
    users: str | None,
    events: Mapping[str, str] | None,
    facts: bool,
) -> RequestTables:
    """Open the tables. Raises DataError if a column that identifies is null or has fractions, or a label is none."""
    table = None
    if users is not None:
        table = Table.scan("users", users, Path())
        table = with_vector_files(table, manifest.user, manifest.declared, Path(), only_absent=True)
    tables = RequestTables.open(manifest, scan_log(manifest.data, Path(), log), table, events, measured=facts)
    rows, data = tables.log, tables.data
    keys = list(dict.fromkeys([*data.request, data.user, data.item, data.time]))
    measured = [*weight_checks(rows, data), *propensity_checks(rows, data)]
    check_rows(rows, [*whole_checks(rows, keys), *label_checks(rows, data), *measured])
    nulls = rows.collect(rows.frame.select(pl.col(keys).null_count())).row(0)
    for column, count in zip(keys, nulls, strict=True):
        if count:
            raise DataError(f"data.log: column '{column}' is null in {count:,} rows; leave these out")
    return tables


def _check_times(tables: RequestTables, packed: PackedDataset | None) -> None:
    """Raise DataError if rows are from before what is known: a bundle's snapshots, or where packed data begin."""
    snapshots, since, way = tables.manifest.priors, NEVER, ""
    if snapshots and packed is None:
        since, way = max(snapshots.values()), "predict by the run, whose packed data know it as of any time, "
    elif snapshots and packed is not None and packed.manifest.continued is not None:
        since = packed.manifest.continued.through
    early = (tables.log.moment(tables.data.time) < since).sum()
    if rows := tables.log.collect(tables.log.frame.select(early)).item():
        name = max(snapshots, key=lambda one: snapshots[one])
        raise DataError(
            f"data.log: {rows:,} rows are from before {format_time(since)}, as of which '{name}' is known: what came "
            f"after them, such as their own labels, would predict them; {way}leave them out, or give --as-served to "
            "score them as a service does now"
        )
