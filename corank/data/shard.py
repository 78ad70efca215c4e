"""A shard of packed data: the requests of a split and of a partition, memory-mapped."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from corank.core.arrays import map_table, read_array, read_ragged, read_row_vectors
from corank.core.errors import DataError
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats
from corank.data.pack_manifest import PackManifest
from corank.data.packed.logged_requests import LoggedRequests
from corank.features.encoding import RowFeatures
from corank.features.history import Events
from corank.features.operands import OperandNames, Operands
from corank.features.schema import Placement, Schema


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
        if not len(start):
            raise DataError(f"{folder / 'request_start.npy'}: damaged: it has no end")
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
            weight=array("weight", np.float32, candidates) if data.weight else None,
            position=array("position", np.int16, candidates) if data.position else None,
            columns={name: array(f"column.{name}", np.float32, candidates) for name in logged},
            snapshot=rows("snapshot", []),
            cross=rows(
                "cross",
                [read_ragged(folder / "cross", n, count=candidates) for n in list_features(schema, "cross")],
            ),
            operands=Operands.load(query / "operands", OperandNames.of(schema, "query"), requests),
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
