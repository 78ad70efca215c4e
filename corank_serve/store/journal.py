"""The journal of a store: every change of what is served, each chained to the one before by its id.

A change's id is a hash over its own content, which holds the id of the change before. Two stores whose last changes
have the same id have the same history; a store that lost a write and counted on has another.
"""

import getpass
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from corank.bundle.signatures import is_content_name
from corank.core.errors import StoreError
from corank.core.reports import Report
from corank.core.time import EARLIEST, LATEST
from corank_serve.store.base import Pairs, Store
from corank_serve.store.claims import store_time
from corank_serve.store.live_version import StoreState

JOURNAL = "journal"
JOURNAL_BATCH = 16
"""Changes read at once."""
CHANGE_BYTES = 1 << 26
"""Largest change."""
KEY_BYTES = 8
"""Of a key: the number of the change."""
LOG = "log"
LOG_KEPT = 100_000
"""Changes that the log of a store tells."""
UNCHANGED = ("prune", "stage", "withdraw")
"""What is logged without being a change of what is live."""
ID_DIGITS = 16
"""Hex digits of a change's id."""


Id = int | str


class ItemRow(NamedTuple):
    """An item that is put in."""

    id: Id
    columns: Mapping[str, Any]
    """One may have the name `id`, where that is not the column of the items' ids."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "ItemRow":
        """The item of a row whose `id` identifies it."""
        return cls(row["id"], {name: value for name, value in row.items() if name != "id"})


class Change(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry of the journal: items that were upserted and removed together, or another version that went live."""

    version: str
    """The live version from then on."""
    at: int
    """ms UTC"""
    items: list[dict[str, Any]] = []
    """Columns, as given, but one of the name `id`, whose place has what identifies the item."""
    id_columns: dict[int, Any] = {}
    """By the place of an item that has a column of the name `id`: its value."""
    records: list[tuple[bytes, bytes]] = []
    """Key and record, in the format of that version; of removed items, too. None if who put the items in did not serve
    that version yet: whoever serves it encodes them."""
    removed: list[Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str] = []
    """Ids of items that were removed."""
    before: str
    """Id of the change before, empty if there is none."""

    @property
    def id(self) -> str:
        """The hash of the change, and so of all before it."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()[:ID_DIGITS]

    @classmethod
    def of_rows(cls, rows: Sequence[ItemRow], **facts: Any) -> "Change":
        """A change that puts items in."""
        return cls(
            items=[{**row.columns, "id": row.id} for row in rows],
            id_columns={n: row.columns["id"] for n, row in enumerate(rows) if "id" in row.columns},
            **facts,
        )

    def rows(self, report: Report = lambda line: None) -> list[ItemRow]:
        """The items that were put in. Those without an id are reported and left out: nobody knows which they are."""
        rows = []
        for n, row in enumerate(self.items):
            if type(row.get("id")) not in (int, str):
                report(
                    f"an item of change {self.id} has no id, and is left out; put it in again: {row!r:.200}"
                )
                continue
            item = ItemRow.of(row)
            own = {"id": self.id_columns[n]} if n in self.id_columns else {}
            rows.append(item._replace(columns={**item.columns, **own}))
        return rows


def journal_key(seq: int) -> bytes:
    """Return the key of a change in the journal."""
    return seq.to_bytes(KEY_BYTES, "big")


def read_journal(store: Store, after: int, until: int) -> Iterator[tuple[int, Change]]:
    """Read the changes after one number up to another that the store has, in their order.

    The work is bounded by what the journal holds, whatever numbers a head claims. Raises StoreError.
    """
    numbers: Sequence[int] = range(after + 1, until + 1)
    if until - after > store.count(JOURNAL):
        keys = (key for pairs in store.scan(JOURNAL) for key, _ in pairs if len(key) == KEY_BYTES)
        there = {int.from_bytes(key, "big") for key in keys}
        numbers = sorted(seq for seq in there if after < seq <= until)
    for first in range(0, len(numbers), JOURNAL_BATCH):
        batch = numbers[first : first + JOURNAL_BATCH]
        for seq, raw in zip(batch, store.get(JOURNAL, [*map(journal_key, batch)]), strict=True):
            if raw is not None:
                yield seq, _decode_change(store, seq, raw)


def _decode_change(store: Store, seq: int, raw: bytes) -> Change:
    """Decode an entry. Raises StoreError, which says what is wrong with it."""
    where = f"{store.address}: journal entry {seq} is damaged"
    if len(raw) > CHANGE_BYTES:
        raise StoreError(f"{where}: it has {len(raw):,} bytes, and {CHANGE_BYTES:,} at most are written")
    try:
        change = msgspec.msgpack.decode(raw, type=Change)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{where}: {error}") from None
    if not is_content_name(change.version):
        raise StoreError(f"{where}: {change.version[:80]!r} is no version's name")
    if not EARLIEST <= change.at <= LATEST:
        raise StoreError(f"{where}: {change.at} is no time")
    return change


def holds_change(store: Store, state: StoreState, seq: int, id_: str | None) -> bool:
    """Whether a change is of a store's history, as far as its journal tells. Raises StoreError.

    It is not if the store lost that change, and counted on or not, or was made anew. Without its id the number decides.
    """
    if id_ is None or seq > state.seq:
        return seq <= state.seq
    if seq == state.seq:
        return id_ == state.id
    return all(change.before == id_ for _, change in read_journal(store, seq, seq + 1))


def follows(changes: Iterable[tuple[int, Change]], seq: int, id_: str, last: int, last_id: str) -> bool:
    """Whether changes lead from one position, a number and an id, to another without a gap or a break."""
    for number, change in changes:
        if number != seq + 1 or change.before != id_:
            return False
        seq, id_ = number, change.id
    return (seq, id_) == (last, last_id)


class LoggedChange(msgspec.Struct, frozen=True):
    """A line of the log: who did what to a store, and when."""

    what: str
    """`publish`, `stage`, `promote`, `withdraw`, `roll back`, `upsert` or `prune`."""
    by: str
    """The name of a token of the service, or user@host of a command."""
    at: int
    """ms UTC"""
    change: int
    """Number of the change; of the last one before for what changes nothing that is live, UNCHANGED."""
    id: str
    """Id of that change."""
    before: str
    """Id of the change before."""
    version: str
    """The live version from then on."""
    items: int = 0
    """Number of items that were upserted."""
    removed: list[str] = []
    """Versions that were removed."""
    beside: str = ""
    """The version that was staged or withdrawn, without a change of what is live."""
    removed_items: int = 0
    """Number of items that were removed."""


def _log_entry(line: LoggedChange) -> dict[str, Pairs]:
    """Return the entries of a store that log what was done."""
    key = journal_key(line.change) + (line.at.to_bytes(KEY_BYTES, "big") if line.what in UNCHANGED else b"")
    return {LOG: [(key, msgspec.msgpack.encode(line))]}


def record_change(seq: int, change: Change, what: str, by: str) -> dict[str, Pairs]:
    """Return the entries of a store that record and log a change."""
    line = LoggedChange(
        what,
        by,
        change.at,
        seq,
        change.id,
        change.before,
        change.version,
        items=len(change.items),
        removed_items=len(change.removed),
    )
    return {JOURNAL: [(journal_key(seq), msgspec.msgpack.encode(change))]} | _log_entry(line)


def record_unchanged(store: Store, state: StoreState, what: str, **facts: Any) -> dict[str, Pairs]:
    """Return the entries of a store that log what was done without a change of what is live, and its `facts`."""
    at, live = store_time(store), state.live or ""
    return _log_entry(LoggedChange(what, local_operator(), at, state.seq, state.id, state.id, live, **facts))


def read_log(store: Store) -> list[LoggedChange]:
    """Read what was done to a store, the oldest first. Raises StoreError."""
    entries = sorted(pair for pairs in store.scan(LOG) for pair in pairs)
    try:
        return [msgspec.msgpack.decode(raw, type=LoggedChange) for _, raw in entries]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{store.address}: its log is damaged: {error}") from None


def old_log_keys(store: Store, seq: int) -> list[bytes]:
    """Return the keys of the log's lines that are not kept beyond a change."""
    keys = (key for pairs in store.scan(LOG) for key, _ in pairs)
    return [key for key in keys if int.from_bytes(key[:KEY_BYTES], "big") <= seq - LOG_KEPT]


def local_operator() -> str:
    """Return who runs this process: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
