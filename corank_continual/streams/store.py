"""Items and users of a topic into a store: one change a batch, with the offsets that follow it.

The head of the store has the offsets, and a swap of it decides: of two processes that have read the same messages, as
after a partition was handed over, one applies them, and the other reads on from where the store is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from corank.core.errors import DataError, RequestError
from corank.funnel.funnel import Funnel
from corank_continual.streams.messages import DeadLetters, read_id, read_key, read_rows, require_row
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.topic import Message, end_offsets
from corank_serve.store.base import Store
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.journal import CHANGE_BYTES, Id, ItemRow
from corank_serve.store.live_version import OffsetMoves, StoreState
from corank_serve.store.record_codec import to_keys
from corank_serve.store.upsert import (
    VersionChangedError,
    change_items,
    encode_records,
    encode_removals,
    known_columns,
)
from corank_serve.store.users import change_users, check_user, encode_user, user_columns


@dataclass(frozen=True)
class RowChange:
    """What a message says of an id."""

    message: Message
    id: Id
    row: dict[str, Any] | None
    """Its columns; None for a tombstone."""


class StoreSink:
    """Applies messages to a store."""

    kind: str
    """`items` or `users`."""

    def __init__(
        self, store: Store, topic: str, cache: Path, letters: DeadLetters, metrics: FollowMetrics
    ) -> None:
        """
        Args:
            store: with a live version.
            topic: the name of the topic.
            cache: folder of fetched bundles.
            letters: take bad rows.
            metrics: counts.
        """
        self._store, self._cache, self._letters, self._metrics = store, cache, letters, metrics
        self._prefix = f"{self.kind}/{topic}/"
        self._begins: dict[int, int] = {}
        self._funnel: Funnel | None = None
        self._bad: list[tuple[Message, str, Any]] = []
        """Of the batch: message, error, and the row, None if the message has none."""

    def offsets(self) -> dict[int, int]:
        """Read where the store is, by partition. Raises StoreError."""
        _, state = StoreState.read(self._store)
        length = len(self._prefix)
        mine = {name[length:]: at for name, at in state.offsets.items() if name.startswith(self._prefix)}
        self._begins = {int(partition): offset for partition, offset in mine.items() if partition.isdigit()}
        return self._begins

    def funnel(self) -> Funnel:
        """The funnel of the live version's bundle, without changes of items. Raises StoreError, BundleError."""
        _, state = StoreState.read(self._store)
        live = state.require_live(self._store)
        if self._funnel is None or self._funnel.manifest.content != live:
            self._funnel = Funnel(fetch_bundle(self._store, live, self._cache))
        return self._funnel

    def apply(self, messages: Sequence[Message]) -> None:
        """As `Sink.apply`. Raises StreamError, StoreError, OffsetsMovedError."""
        ends = end_offsets(messages)
        moves = {
            f"{self._prefix}{partition}": (self._begins.get(partition), end)
            for partition, end in ends.items()
        }
        while True:
            funnel, self._bad = self.funnel(), []
            try:
                changes = [*self._changes(messages, *self._key(funnel))]
                applied, removed = self._write(funnel, changes, moves)
                break
            except VersionChangedError:
                continue
            except RequestError as error:  # too much at once
                if len(messages) > 1:
                    half = len(messages) // 2
                    self.apply(messages[:half])
                    return self.apply(messages[half:])
                self._bad, applied, removed = [(messages[0], str(error), None)], 0, 0
                self._put_aside()
                change_users(self._store, [], [], moves)
                break
        self._begins |= ends
        self._metrics.commits.inc()
        self._metrics.rows.labels("applied").inc(applied)
        self._metrics.rows.labels("removed").inc(removed)
        return None

    def rest(self) -> None:
        """As `Sink.rest`: nothing is kept."""

    def finish(self) -> None:
        """As `Sink.finish`: nothing is kept."""

    def _key(self, funnel: Funnel) -> tuple[str, bool]:
        """The column of ids, and whether they are text."""
        raise NotImplementedError

    def _write(self, funnel: Funnel, changes: Sequence[RowChange], moves: OffsetMoves) -> tuple[int, int]:
        """Write changes and offsets, and bad rows before.

        Returns how many rows were put in, and how many removed. Raises RequestError if it is too much at once.
        """
        raise NotImplementedError

    def _put_aside(self) -> None:
        """Write the bad rows of the batch, before the offsets pass them."""
        for message, error, row in self._bad:
            self._letters.put(message, error, row)
        self._letters.flush()

    def _changes(self, messages: Sequence[Message], column: str, text: bool) -> Iterator[RowChange]:
        """The changes of messages, in order; notes bad rows."""
        for message in messages:
            value = message.value()
            try:
                rows = [None] if value is None else read_rows(value)
            except DataError as error:
                self._bad.append((message, str(error), None))
                continue
            for row in rows:
                try:
                    if row is None and value is None:
                        yield RowChange(message, read_key(message, text), None)
                    else:
                        yield RowChange(message, read_id(require_row(row), column, text), row)
                except DataError as error:
                    self._bad.append((message, str(error), row))


class ItemSink(StoreSink):
    """Puts items into the live version, and removes those of tombstones."""

    kind = "items"

    def _key(self, funnel: Funnel) -> tuple[str, bool]:
        return funnel.manifest.item, funnel.request_encoder.items.text

    def _write(self, funnel: Funnel, changes: Sequence[RowChange], moves: OffsetMoves) -> tuple[int, int]:
        key = funnel.manifest.item
        by_id: dict[Id, list[RowChange]] = {}
        for change in changes:
            by_id.setdefault(change.id, []).append(change)
        rows, records, removed = list[ItemRow](), list[tuple[bytes, bytes]](), list[Id]()
        while by_id:  # the last good change of each id counts
            last = {id_: changes[-1] for id_, changes in by_id.items()}
            put = [
                ItemRow(id_, {name: value for name, value in change.row.items() if name != key})
                for id_, change in last.items()
                if change.row is not None
            ]
            encoded, errors = encode_good(funnel, put)
            records += encoded
            rows += [row for row in put if row.id not in errors]
            removed += [id_ for id_, change in last.items() if change.row is None]
            self._bad += [(last[id_].message, error, last[id_].row) for id_, error in errors.items()]
            by_id = {id_: by_id[id_][:-1] for id_ in errors if len(by_id[id_]) > 1}
        sources = {id(change.message): change.message for change in changes}.values()
        size = sum(len(record) for _, record in records)
        size += sum(len(message.value() or b"") for message in sources)
        if size > CHANGE_BYTES:
            raise RequestError(f"items: {size:,} bytes at once, {CHANGE_BYTES:,} at most are taken")
        self._put_aside()
        if rows or removed:
            records += encode_removals(funnel, removed)
            change_items(self._store, funnel, rows, records, removed=removed, moves=moves)
        else:
            change_users(self._store, [], [], moves)
        return len(rows), len(removed)


def encode_good(funnel: Funnel, rows: Sequence[ItemRow]) -> tuple[list[tuple[bytes, bytes]], dict[Id, str]]:
    """Encode the rows that a bundle takes, and name the error of each of the others by its id."""
    try:
        return (encode_records(funnel, known_columns(funnel, rows)) if rows else []), {}
    except RequestError as error:
        if len(rows) == 1:
            return [], {rows[0].id: str(error)}
    half = len(rows) // 2
    records, errors = encode_good(funnel, rows[:half])
    more, others = encode_good(funnel, rows[half:])
    return records + more, errors | others


class UserSink(StoreSink):
    """Puts the columns of users that the live version reads, and removes users of tombstones."""

    kind = "users"

    def _key(self, funnel: Funnel) -> tuple[str, bool]:
        return funnel.manifest.user, funnel.manifest.user_ids == "text"

    def _write(self, funnel: Funnel, changes: Sequence[RowChange], moves: OffsetMoves) -> tuple[int, int]:
        wanted = {*user_columns(funnel.manifest)}
        values: dict[Id, bytes | None] = {}
        for change in changes:
            row = change.row
            try:
                value = None
                if row is not None:
                    value = encode_user({c: v for c, v in row.items() if c in wanted})
                    check_user(funnel, change.id, value)
                values[change.id] = value
            except (DataError, RequestError) as error:
                self._bad.append((change.message, str(error), row))
        self._put_aside()
        put = {id_: value for id_, value in values.items() if value is not None}
        removed = [id_ for id_, value in values.items() if value is None]
        change_users(self._store, [*zip(_keys([*put]), put.values(), strict=True)], _keys(removed), moves)
        return len(put), len(removed)


def _keys(ids: list[Id]) -> list[bytes]:
    return to_keys(pl.Series(ids)) if ids else []
