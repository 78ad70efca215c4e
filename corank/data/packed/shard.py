"""Whole requests of packed data with their candidates: those of a shard, memory-mapped, or some of several shards.

They may be seen with some of their features, such as those of a run that is judged on data packed for another.

Letters: R requests · C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from corank.core.arrays import map_table, read_array, read_ragged, read_row_vectors
from corank.core.artifact_cache import LazyParts
from corank.core.ragged import Ragged, Rows, concat_ranges, concat_vectors
from corank.core.types import Floats, Ints, Longs
from corank.data.packed.manifest import PackManifest
from corank.features.encoders import assemble_rows, split_rows
from corank.features.encoding import PLACEMENTS, Placement, RowFeatures
from corank.features.history_events import Events
from corank.features.operands import Operands
from corank.features.schema import Schema


@dataclass(frozen=True)
class LoggedRequests:
    """R requests of a split in the order of the log, and their C candidates."""

    request_start: Longs
    """Where each request's candidates begin, and the end: (R + 1,)."""
    query: Rows
    """(R). The values of a history, and of an attribute of its items, are the events of all users."""
    user: Ints
    """Index into `PackedDataset.users`: (R,)."""
    time: Longs
    """ms since 1970 UTC: (R,)."""
    item: Ints
    """Row of `PackedDataset.items` at the request's time: (C,)."""
    level: NDArray[np.uint8]
    """(C,)"""
    labels: dict[str, NDArray[np.int8]]
    """0, 1, or -1 if unknown, as for all candidates that were not exposed: (C,)."""
    scores: dict[str, Floats]
    """Logged scores as logits, NaN if there is none: (C,)."""
    weight: Floats | None
    """(C,); None if the log does not have it."""
    position: NDArray[np.int16] | None
    """Position on the page, −1 if unknown: (C,); None if the log does not have it."""
    columns: dict[str, Floats]
    """Those of the data's `columns` that are read from the log: (C,)."""
    snapshot: Rows
    """Features of the candidates' items at a snapshot before the request: (C), without columns if there are none."""
    cross: Rows
    """(C), without columns if there are no cross features."""
    operands: Operands
    """Of the requests, histories left out: (R)."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, requests: Longs) -> "LoggedRequests":
        """Copy some requests, by position, but for the values of lists, which stay shared."""
        start = self.request_start[requests]
        size = self.request_start[requests + 1] - start
        candidates = concat_ranges(start, size)
        names = (part.name for part in fields(LoggedRequests))
        taken = {n: _take(getattr(self, n), requests if n in _OF_REQUESTS else candidates) for n in names}
        return LoggedRequests(**taken | {"request_start": np.append(0, np.cumsum(size))})

    def concat(self, *others: "LoggedRequests") -> "LoggedRequests":
        """Append other requests of the same data. Values of lists are copied unless all of them share them."""
        parts = (self, *others)
        names = (part.name for part in fields(LoggedRequests))
        joined = {name: _join([getattr(part, name) for part in parts]) for name in names}
        sizes = np.concatenate([np.diff(part.request_start) for part in parts])
        return LoggedRequests(**joined | {"request_start": np.append(0, np.cumsum(sizes))})


_OF_REQUESTS = ("request_start", "query", "user", "time", "operands")


def _take(values: Any, index: Longs) -> Any:
    if isinstance(values, dict):
        return {name: array[index] for name, array in values.items()}
    if isinstance(values, Rows | Operands):
        return values.take(index)
    return None if values is None else values[index]


def _join(parts: Sequence[Any]) -> Any:
    """Join arrays that the log has for all requests or for none, rows, or operands."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}
    if isinstance(first, Rows):
        return _join_rows(parts)
    if isinstance(first, Operands):
        compact, *others = (part.compact() for part in parts)
        return compact.concat(*others)
    return None if first is None else np.concatenate(parts)


def _join_rows(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        tuple(_join_lists(lists) for lists in zip(*(part.lists for part in parts), strict=True)),
        tuple(concat_vectors(some) for some in zip(*(part.vectors for part in parts), strict=True)),
    )


def _join_lists(parts: Sequence[Ragged]) -> Ragged:
    """Join lists; histories, whose values are the events of all users, stay views of them."""
    shared = all(part.values is parts[0].values for part in parts)
    first, *others = parts if shared else [part.compact() for part in parts]
    return first.concat(*others)


@dataclass(frozen=True)
class Shard(LoggedRequests):
    """R requests of a split in the order of time, and their C candidates in the order of the log."""

    folder: Path
    truth: dict[str, Floats]
    """True probabilities, for labels of the table of truth: (C,)."""
    propensity: Floats | None
    """The probability of exposure, NaN outside of the random bucket: (C,); None if the log does not have it."""
    key_table: pa.Table
    """The request key's columns: (R,)."""

    @cached_property
    def keys(self) -> pl.DataFrame:
        """The request key's columns: (R,)."""
        return pl.DataFrame(self.key_table)

    def request_key(self, row: int) -> dict[str, Any]:
        """Return the request key of one request, by column."""
        return self.keys.row(row, named=True)

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: PackManifest,
        schema: Schema,
        events: dict[str, Events],
        derived: bool = True,
    ) -> Self:
        """Memory-map a shard, whose rows have `derived` features or, while it is packed, not yet. Raises DataError."""

        def array(name: str, dtype: type[np.generic], count: int | None) -> NDArray[Any]:
            return read_array(folder / f"{name}.npy", dtype, (count,))

        data, labels = manifest.data, manifest.data.labels
        logged = [name for name in data.columns if name not in manifest.item_columns]
        start, query = array("request_start", np.int64, None), folder / "query"
        requests, candidates = len(start) - 1, int(start[-1])

        def rows(placement: Placement, lists: list[Ragged]) -> Rows:
            count = requests if placement == "query" else candidates
            placed = row_features(schema, placement, derived)
            return map_rows(folder / placement, lists, placed, count)

        return cls(
            request_start=start,
            query=rows("query", _query_lists(query, schema, events, requests)),
            user=array("user", np.int32, requests),
            time=array("time", np.int64, requests),
            item=array("item", np.int32, candidates),
            level=array("level", np.uint8, candidates),
            labels={name: array(f"label.{name}", np.int8, candidates) for name in labels},
            scores={name: array(f"score.{name}", np.float32, candidates) for name in data.scores},
            weight=array("weight", np.float32, candidates) if data.weight or data.propensity_weight else None,
            position=array("position", np.int16, candidates) if data.position else None,
            columns={name: array(f"column.{name}", np.float32, candidates) for name in logged},
            snapshot=rows("snapshot", []),
            cross=rows(
                "cross",
                [read_ragged(folder / "cross", n, count=candidates) for n in list_features(schema, "cross")],
            ),
            operands=Operands.load(query / "operands", schema.operand_names("query"), requests),
            folder=folder,
            truth={
                name: array(f"truth.{name}", np.float32, candidates)
                for name in labels
                if (folder / f"truth.{name}.npy").exists()
            },
            propensity=array("propensity", np.float32, candidates) if data.propensity else None,
            key_table=map_table(folder / "request.arrow"),
        )


def map_rows(folder: Path, lists: list[Ragged], placed: RowFeatures, count: int | None = None) -> Rows:
    """Memory-map encoded rows of the features `placed`, with their `lists`: `count` unless None. Raises DataError."""
    ids = read_array(folder / "ids.npy", np.int32, (count, len(placed.ids)))
    numbers = read_array(folder / "numbers.npy", np.float32, (len(ids), placed.width))
    return Rows(ids, numbers, tuple(lists), read_row_vectors(folder, len(placed.vectors), len(ids)))


def row_features(schema: Schema, placement: Placement, derived: bool) -> RowFeatures:
    """Select the features of a placement's rows: all, or those that are not derived."""
    placed = schema.row_features(placement)
    return placed if derived else placed.select(n for n in placed if n not in schema.derived(placement))


def scalar_features(schema: Schema, placement: Placement) -> RowFeatures:
    """Select the features of a placement that are read from a column and are no lists: those stored in one piece."""
    read = row_features(schema, placement, derived=False)
    return read.select((*read.ids, *read.numbers, *read.vectors))


def list_features(schema: Schema, placement: Placement) -> range:
    """Number the list features of a placement."""
    return range(len(schema.row_features(placement).lists))


def _query_lists(folder: Path, schema: Schema, events: dict[str, Events], count: int) -> list[Ragged]:
    histories, names = schema.histories(), schema.row_features("query").lists
    owner = {name: history for name, (history, _) in schema.attributes().items()} | schema.parallels()

    def lists(name: str) -> Ragged:
        history = owner.get(name, name)
        if history not in histories:
            return read_ragged(folder, names.index(name), count=count)
        history_events = events[histories[history].events]
        values = history_events.attributes.get(name, history_events.items)
        return read_ragged(folder, names.index(history), values, count=count)

    return [lists(name) for name in names]


def select_rows(whole: Schema, some: Schema, placement: Placement, rows: Rows) -> Rows:
    """Select some features of a placement's rows: the same rows if there are no others, otherwise copies of columns."""
    features, chosen = whole.row_features(placement), some.row_features(placement)
    return rows if features == chosen else assemble_rows(chosen, split_rows(features, rows), len(rows))


def select_shards(whole: Schema, some: Schema, shards: Sequence[Shard]) -> Sequence[Shard]:
    """Select some features of shards, of each when it is read first; the same shards if there are no others."""
    if all(whole.row_features(placement) == some.row_features(placement) for placement in PLACEMENTS):
        return shards
    select = partial(select_rows, whole, some)

    def view(n: int) -> Shard:
        query, snapshot = select("query", shards[n].query), select("snapshot", shards[n].snapshot)
        return replace(shards[n], query=query, snapshot=snapshot, cross=select("cross", shards[n].cross))

    return LazyParts(len(shards), cache(view))
