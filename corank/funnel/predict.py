"""Predictions of a log by tasks: rows are spread by request, and each partition becomes a file.

Requests from before a bundle's snapshots are predicted by what the packed data know of their time.

Letters: C candidates of a partition · n candidates of a request.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import BundleError, DataError, RequestError
from corank.core.files import atomic_folder
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.time import NEVER, format_time
from corank.core.types import Longs, Numbers
from corank.data.file_columns import FileColumns
from corank.data.log_rows import request_columns, scan_log
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.workspace import SpreadRows, read_partition, write_beside
from corank.data.tables import Table, cut_table
from corank.data.validate import check_rows, label_checks, propensity_checks, weight_checks, whole_checks
from corank.data.vector_files import with_vector_files
from corank.engine.base import Engine
from corank.features.log_schema import ID, ITEM, DataSettings, value_column
from corank.features.priors import PriorSnapshots
from corank.funnel.funnel import Funnel, Predicted
from corank.funnel.log_requests import RequestBatch, RequestGroup, RequestTables, add_unknown_labels


@dataclass(frozen=True)
class PackedPast:
    """Priors, ages and items at the time of any request, of the packed data that a bundle was exported from."""

    bundle: Funnel
    packed: PackedDataset

    @cached_property
    def funnel(self) -> Funnel:
        """The bundle's funnel, for which of each request is known what was at its time, the bundle's snapshots last."""
        funnel, encoder = copy(self.bundle), self.bundle.request_encoder
        priors = replace(self.packed.priors, last=self.bundle.manifest.priors)
        funnel.request_encoder = encoder.with_past(priors, partial(self._as_of, priors))
        return funnel

    @cached_property
    def _end(self) -> int:
        """Before it some snapshot or item was another, ms UTC."""
        changed = self.packed.item_keys["valid_from"].to_numpy().max(initial=NEVER)
        return max([int(changed), *self.bundle.manifest.priors.values()])

    @cached_property
    def _index(self) -> Longs:
        """Each item of the bundle among those of the packed data."""
        (layer,) = self.bundle.request_encoder.items.layers
        return self.packed.item_versions.ids.find(layer.records.ids.values)

    def _as_of(
        self, priors: PriorSnapshots, items: LayeredItems, positions: Longs, times: Longs, scored: bool
    ) -> tuple[LayeredItems, Longs]:
        """As `ItemsAsOf`, of items of the bundle: an item is added once for all times at which it is the same."""
        old = np.flatnonzero((positions >= 0) & (times < self._end))
        if not len(old):
            return items, positions
        versions, then = self.packed.item_versions, times[old]
        row = versions.find_at(self._index[positions[old]], then)
        period, periods = self._periods(priors, then)
        _, first, which = np.unique(row * periods + period, return_index=True, return_inverse=True)
        ids = versions.frame[ID].gather(row[first])
        records = ItemRecords.of_packed(self.packed, priors, ids, row[first], then[first])
        if scored:
            parts = self.bundle.scorer.parts(records.rows)
        else:  # nobody asks for those of the items of a history
            none = np.empty(0, dtype=np.int64)
            parts = {name: part.select(none) for name, part in items.layers[0].parts.items()}
        at = positions.copy()
        at[old] = items.bounds[-1] + which
        return items.with_layer(ItemLayer(records, parts)), at

    def _periods(self, priors: PriorSnapshots, times: Longs) -> tuple[Longs, int]:
        """Number the times between which no snapshot changes: of each of P times, (P,), and how many there are."""
        distinct, which = np.unique(times, return_inverse=True)
        steps = {name: priors.cuts(name, e, distinct) for name, e in self.packed.schema.snapshots().items()}
        if not steps:
            return np.zeros_like(times), 1
        found, period = np.unique(np.stack([*steps.values()]), axis=1, return_inverse=True)
        return period.reshape(-1)[which], found.shape[1]


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
REQUESTS, CANDIDATES = 256, 4_096
"""Of requests that are scored at once, at most: a graph multiplies all their queries with all their candidates."""
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
    tell: Callable[[int], object] = lambda candidates: None
    """Receives how many more candidates are done, if the task runs in the process that made it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what was opened."""
        return type(self), (self.bundle, self.log, self.files, self.out, self.packed, self.facts)

    @cached_property
    def _funnel(self) -> Funnel:
        funnel = Funnel(self.bundle)
        return funnel if self.packed is None else PackedPast(funnel, self.packed()).funnel

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
        """Predict requests by the funnel, some at once: (C,) each, NaN of unknown items. Raises DataError."""
        rows, counts = requests.grouped.rows, Counter[str]()
        columns: dict[str, Numbers] = {}
        most = 1 if self._funnel.scorer.one_request else REQUESTS
        for batch in requests.batches(most, CANDIDATES):
            predicted = self._predict_batch(rows, batch)
            known = _find_known(rows[ITEM], batch, predicted)
            outputs = predicted.outputs
            if self.facts:
                outputs |= {value_column(name): values for name, values in predicted.columns.items()}
            for name, values in outputs.items():
                kept = columns.setdefault(name, np.full(len(rows), np.nan, dtype=values.dtype))
                kept[known] = values
            candidates = batch.bounds[-1] - batch.bounds[0]
            counts.update(
                requests=len(batch.requests), candidates=candidates, unknown=candidates - len(known)
            )
            self.tell(candidates)
        return columns, counts

    def _predict_batch(self, rows: pl.DataFrame, batch: RequestBatch) -> Predicted:
        """Predict some requests at once. Raises DataError, which names the one that is at fault."""
        try:
            return self._funnel.predict_many(batch.requests)
        except RequestError as error:
            if len(batch.requests) > 1:  # each alone tells which
                for alone in batch.each():
                    self._predict_batch(rows, alone)
            key = {c: rows[name][batch.bounds[0]] for c, name in request_columns(self.log.data).items()}
            shown = ", ".join(f"{c}={value!r}" for c, value in key.items())
            raise DataError(f"data.log: request {shown}: {error}") from None


def _find_known(items: pl.Series, batch: RequestBatch, predicted: Predicted) -> Longs:
    """The rows of the candidates that were predicted: those of a batch, without unknown ones."""
    begin, end = batch.bounds[0], batch.bounds[-1]
    if len(predicted.ids) == end - begin:
        return np.arange(begin, end)
    known = {*predicted.ids}
    return np.array([n for n, id_ in enumerate(items[begin:end], begin) if id_ in known], dtype=np.int64)


@dataclass
class CandidateProgress:
    """Reports the candidates that are done: in this process those of each batch, of workers those of partitions."""

    progress: Progress
    total: int
    done: int = 0

    def add(self, candidates: int) -> None:
        """Report some more."""
        self._report(self.done + candidates)

    def end_partition(self, done: int, partitions: int) -> None:
        """Report that so many of about equal partitions are done."""
        self._report(max(self.done, self.total * done // partitions))

    def _report(self, done: int) -> None:
        self.done = min(done, self.total)
        self.progress(self.done, self.total)


def predict_log(
    bundle: Location,
    log: str | list[str],
    users: str | list[str] | None,
    out: Path,
    engine: Engine,
    progress: Progress = lambda done, total: None,
    events: Mapping[str, str | list[str]] | None = None,
    facts: bool = False,
    packed: OpenPacked | None = None,
    as_served: bool = False,
    base: Path = Path(),
) -> PredictedLog:
    """Write what every stage of a bundle computes of each candidate of a log, whichever stage would have cut it.

    The same bytes for any engine and number of workers.

    Args:
        bundle: the bundle.
        log: the table of logged candidates, with the columns of the bundle's log.
        users: the table of users, if the bundle reads one.
        out: a folder that is not there or empty. It is written whole or not at all.
        engine: runs the tasks.
        progress: receives candidates done and in all.
        events: by name, the tables of events that the bundle's histories are made of.
        facts: write what an evaluation must know of candidates with their scores, in place of the log's columns.
        packed: opens the packed data that the bundle was exported from, in each worker; rows before the bundle's
            snapshots then get the priors, ages and items of their time.
        as_served: whether rows before the bundle's snapshots may get the priors of now, which count their own labels.
        base: what paths of files of vectors are relative to.

    Raises:
        BundleError: the bundle is damaged, or `out` cannot be written.
        DataError: the tables do not fit the bundle, rows are from before its snapshots, or `out` is taken.
        EngineError: a worker ended again and again.
    """
    opened = Bundle.open(bundle)
    tables = _open_tables(opened.manifest, log, users, events, facts, base)
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
            counted = CandidateProgress(progress, rows)
            predict = PredictPartition(opened, tables, files, folder, packed, facts, counted.add)
            done = engine.run(predict, range(partitions), counted.end_partition)
            counts = sum(map(Counter, done), Counter[str]())
            shutil.rmtree(spread.folder)
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error}; nothing was written") from None
    return PredictedLog(counts["requests"], counts["candidates"], counts["unknown"])


def _open_tables(
    manifest: BundleManifest,
    log: str | list[str],
    users: str | list[str] | None,
    events: Mapping[str, str | list[str]] | None,
    facts: bool,
    base: Path,
) -> RequestTables:
    """Open the tables. Raises DataError if a column that identifies is null or has fractions, or a label is none."""
    table = None
    if users is not None:
        table = Table.scan("users", users, Path(), manifest.data.nulls)
        table = with_vector_files(table, manifest.user, manifest.declared, base, only_absent=True)
    scanned = scan_log(manifest.data, Path(), log)
    if not facts:
        scanned = add_unknown_labels(manifest, scanned)
    tables = RequestTables.open(manifest, scanned, table, events, measured=facts)
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
