"""Requests in the order of time → a shard of packed arrays for each split."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.arrays import (
    read_array,
    write_arrays,
    write_frame,
    write_ragged,
    write_rows,
    write_views,
)
from corank.encode import Encoded, Encoders, assemble
from corank.errors import DataError
from corank.history import Events
from corank.packed import ShardCount, events_name
from corank.requests import Requests, request_columns
from corank.rows import Longs, Ragged
from corank.schema import Placed, Schema
from corank.survey import Source
from corank.tables import DataSettings
from corank.versions import Versions


def encoded(encoders: Encoders, names: list[str], versions: Versions, key: str) -> dict[str, Encoded]:
    """Features of all rows of items or users; `key` is the column of the id."""
    frame, column = versions.frame, encoders.schema.column
    return {
        name: encoders.encode(name, frame["@id" if column(name) == key else column(name)]) for name in names
    }


@dataclass(frozen=True)
class ShardWriter:
    """What a shard is made from, but for its requests."""

    data: DataSettings
    schema: Schema
    found: dict[str, Source]
    encoders: Encoders
    items: Versions
    users: Versions
    folder: Path
    spill: Path

    @cached_property
    def _user_features(self) -> dict[str, Encoded]:
        names = [name for name, source in self.found.items() if source == "users"]
        return encoded(self.encoders, names, self.users, self.data.user)

    def write(self, name: str, requests: Requests, truth: pl.DataFrame | None) -> dict[str, ShardCount]:
        """Write a shard for each split that has some of the requests. Raises DataError."""
        heads, start = requests.heads, requests.start
        time = heads["@time"].to_numpy()
        candidates = self._candidates(requests.rows) | self._truth(requests.rows, truth)
        cross = self._cross(requests.rows)
        users = self.users.ids.find(heads["@user"]).astype(np.int32)
        query, lists = self._query(heads, time)
        keys = heads.select(pl.col(column).alias(name) for name, column in request_columns(self.data).items())
        self._write_events(name, requests, candidates, users)
        written = {}
        for split, bounds in self.data.splits().items():
            first, end = np.searchsorted(time, bounds).tolist()
            if first == end:
                continue
            folder, index = self.folder / split / name, np.arange(first, end)
            begin = start[first : end + 1]
            write_rows(folder / "query", query.take(index))
            for n, values in lists.items():
                write_ragged(folder / "query", n, values.take(index))
            write_rows(folder / "cross", cross.take(np.arange(begin[0], begin[-1])))
            write_arrays(folder, {n: array[begin[0] : begin[-1]] for n, array in candidates.items()})
            write_arrays(
                folder, {"request_start": begin - begin[0], "user": users[index], "time": time[index]}
            )
            write_frame(folder / "request.arrow", keys[first:end])
            written[split] = ShardCount(name=name, requests=end - first, candidates=int(begin[-1] - begin[0]))
        return written

    def _candidates(self, rows: pl.DataFrame) -> dict[str, NDArray[Any]]:
        deepest = len(self.data.levels) - 1
        level = rows["@level"].to_numpy() if self.data.level else np.full(len(rows), deepest, dtype=np.uint8)
        arrays: dict[str, NDArray[Any]] = {
            "item": self.items.at(rows["@item"], rows["@time"].to_numpy()).astype(np.int32),
            "level": level,
        }
        for name in self.data.labels:
            label = rows[f"@label {name}"].fill_null(-1).to_numpy()
            arrays[f"label.{name}"] = np.where(level == deepest, label, np.int8(-1))
        for name in self.data.scores:
            arrays[f"score.{name}"] = rows[f"@score {name}"].fill_null(np.nan).to_numpy()
        if self.data.weight:
            arrays["weight"] = rows["@weight"].to_numpy()
        return arrays

    def _truth(self, rows: pl.DataFrame, truth: pl.DataFrame | None) -> dict[str, NDArray[Any]]:
        if truth is None:
            return {}
        keys = [*request_columns(self.data).values(), "@item"]
        labels = [name for name in self.data.labels if name in truth.columns]
        joined = rows.select(keys).join(
            truth.unique([*keys, *labels]), on=keys, how="left", maintain_order="left"
        )
        if len(joined) > len(rows):
            raise DataError("data.truth: a candidate has two rows that differ")
        for name in labels:
            lacking = joined.filter(pl.col(name).is_null() | pl.col(name).is_nan())
            if len(lacking):
                item = lacking["@item"][0]
                raise DataError(
                    f"data.truth: no '{name}' for candidates of the log, such as {self.data.item}={item!r}"
                )
        return {f"truth.{name}": joined[name].to_numpy() for name in labels}

    def _cross(self, rows: pl.DataFrame) -> Any:
        placed = self.schema.placed("cross")
        names = (*placed.ids, *placed.numbers, *placed.lists)
        columns = {name: self.encoders.encode(name, rows[self.schema.column(name)]) for name in names}
        return assemble(placed, columns, len(rows))

    def _query(self, heads: pl.DataFrame, time: Longs) -> tuple[Any, dict[int, Ragged]]:
        """The requests' rows without lists; and their lists but histories, by place."""
        placed, histories = self.schema.placed("query"), self.schema.histories()
        row = self.users.at(heads["@user"], time)
        columns: dict[str, Encoded] = {}
        for name in (*placed.ids, *placed.numbers, *placed.lists):
            if name in self._user_features:
                feature = self._user_features[name]
                columns[name] = feature.take(row) if isinstance(feature, Ragged) else feature[row]
            elif name not in histories:
                columns[name] = self.encoders.encode(name, heads[self.schema.column(name)])
        lists = {n: columns[name] for n, name in enumerate(placed.lists) if name not in histories}
        rows = assemble(Placed(placed.ids, (), placed.numbers), columns, len(heads))
        return rows, {n: values for n, values in lists.items() if isinstance(values, Ragged)}

    def _write_events(
        self, shard: str, requests: Requests, candidates: dict[str, NDArray[Any]], users: Any
    ) -> None:
        """Pieces of the events of each kind of history, to be sorted when all shards are written."""
        user = np.repeat(users, np.diff(requests.start))
        for name, history in {events_name(h): h for h in self.schema.histories().values()}.items():
            happened = candidates["level"] == len(self.data.levels) - 1
            if history.event is not None:
                happened = candidates[f"label.{history.event}"] == 1
            rows = requests.rows.filter(happened)
            assert history.of is not None
            codes = self.encoders.encode(history.of, rows["@item"])
            assert not isinstance(codes, Ragged)
            piece = {"user": user[happened], "time": rows["@time"], "item": codes, "row": rows["@row"]}
            write_frame(self.spill / f"{name}.{shard}.arrow", pl.DataFrame(piece))


def write_histories(
    folder: Path, data: DataSettings, schema: Schema, splits: dict[str, list[ShardCount]]
) -> None:
    """The histories of all shards written, from the events of all of them."""
    histories = schema.histories()
    events = {name: Events.open(folder / "events", name) for name in map(events_name, histories.values())}
    for shard in (folder / split / count.name for split, counts in splits.items() for count in counts):
        user, time = read_array(shard / "user.npy"), read_array(shard / "time.npy")
        for n, name in enumerate(schema.placed("query").lists):
            if name in histories:
                h, of = histories[name], events[events_name(histories[name])]
                start, length = of.slices(user, time, h.lag, h.every, data.timezone, h.last)
                write_views(shard / "query", n, Ragged(start, length, of.items))
