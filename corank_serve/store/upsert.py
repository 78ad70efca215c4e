"""New or changed items into the live version of a store, and what becomes of them when a new version goes live.

A service that does not serve the live version yet takes items, too: the journal gets them as they were given, whoever
serves the live version encodes them, and the next who puts items into that version enters their records with its own.

The as-of of the new version's bundle tells which upserts its table of items contains: every later one stays on top of
it. A change's number decides, in the order of the store. A time is brought to the last change that is surely before
it; without an as-of no upsert is taken to be in the table.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.manifest import ItemsAsOf
from corank.core.errors import CorankError, RequestError
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank_serve.store.base import Pairs, Store
from corank_serve.store.claims import store_time
from corank_serve.store.journal import (
    CHANGE_BYTES,
    Change,
    Id,
    ItemRow,
    holds_change,
    local_operator,
    read_journal,
    record_change,
)
from corank_serve.store.live_version import OffsetMoves, StoreState, VersionFacts
from corank_serve.store.record_codec import RecordFormat, to_ids, to_keys


class VersionChangedError(CorankError):
    """Another version went live meanwhile; try again with it."""


def upsert(store: Store, funnel: Funnel, items: list[dict[str, Any]], by: str | None = None) -> StoreState:
    """Put new or changed items into a store, whichever version is live.

    Args:
        store: the store.
        funnel: of the version that was live when the items were read; it checks them, and encodes them if it still is.
        items: `id` and columns of each; a column that is left out is missing from then on.
        by: who does it, for the log; user@host of this process if None.

    Returns:
        The head with the change.

    Raises RequestError if a feature refuses an item, StoreError.
    """
    rows = [*map(ItemRow.of, items)]
    return change_items(store, funnel, rows, encode_records(funnel, rows), by, into_any=True)


def change_items(
    store: Store,
    funnel: Funnel,
    items: Sequence[ItemRow],
    records: Pairs,
    by: str | None = None,
    removed: Sequence[Id] = (),
    moves: OffsetMoves = MappingProxyType({}),
    into_any: bool = False,
) -> StoreState:
    """Put items into the live version, and remove others.

    Args:
        store: the store.
        funnel: of the version that was live when the items were read.
        items: they may have more columns than the version knows, for later ones.
        records: theirs, and of removed items, as that version encodes them.
        by: as of `upsert`.
        removed: ids of items that are not known any more.
        moves: offsets of the stream that all this comes from, which change with it.
        into_any: whether the items are taken, without records, if another version is live now.

    Returns:
        The head with the change.

    Raises RequestError if it is too much at once, VersionChangedError if another version is live now,
    OffsetsMovedError if it was applied already, StoreError.
    """
    version = funnel.manifest.content
    while True:
        raw, state = StoreState.read(store)
        live = state.require_live(store)
        if live != version and not into_any:
            raise VersionChangedError(
                f"{store.address}: {live} is live, {version} was when the items were read"
            )
        state = state.with_offsets(moves, store.address)
        change = Change.of_rows(
            items,
            version=live,
            at=store_time(store),
            records=[*records] if live == version else [],
            removed=list(removed),
            before=state.id,
        )
        if live == version:
            after, entries = _enter(store, state, funnel, dict(records))
        else:
            after, entries = state.with_lag(live), {}
        after = after.with_change(change.id)
        entries |= record_change(after.seq, change, "upsert", by or local_operator())
        _check_size(entries)
        if store.swap(raw, after.to_bytes(), entries):
            return after


def _enter(
    store: Store, state: StoreState, funnel: Funnel, records: dict[bytes, bytes]
) -> tuple[StoreState, dict[str, Pairs]]:
    """The head, and the entries of its table, with records of the live version and all that the table lacks before."""
    version = funnel.manifest.content
    lacking, table = dict[bytes, bytes](), f"changed/{version}"
    applied, _ = state.applied_until(version)
    for _, change in read_journal(store, applied, state.seq) if applied < state.seq else ():
        lacking |= changed_records(funnel, version, change)
    records = {**lacking, **records}
    facts = state.versions[version]
    changed = facts.changed + count_new(store, table, records)
    return state.with_facts(version, facts, changed=changed, lags=False), {table: [*records.items()]}


def _check_size(entries: Mapping[str, Pairs]) -> None:
    """Raise RequestError if a change is larger than what is read back."""
    size = max(len(value) for pairs in entries.values() for _, value in pairs)
    if size > CHANGE_BYTES:
        raise RequestError(
            f"items: {size:,} bytes at once, {CHANGE_BYTES:,} at most are taken; put in fewer at once"
        )


def count_new(store: Store, table: str, records: Mapping[bytes, bytes], gone: Collection[bytes] = ()) -> int:
    """Return by how many keys a table grows if some are removed, and then records are put."""
    keys = list({*records, *gone})
    present = {key for key, value in zip(keys, store.get(table, keys), strict=True) if value is not None}
    return len((present - {*gone}) | {*records}) - len(present)


def encode_records(funnel: Funnel, items: Sequence[ItemRow]) -> list[tuple[bytes, bytes]]:
    """Encode items as keys and records. Raises RequestError."""
    columns = [dict(row.columns) for row in items]
    layer = funnel.request_encoder.encode_items([row.id for row in items], columns)
    return RecordFormat.from_manifest(funnel.manifest).encode(layer, np.arange(len(items)))


def encode_removals(funnel: Funnel, ids: Sequence[Id]) -> list[tuple[bytes, bytes]]:
    """Encode ids of removed items as keys and records; ids of another type than the bundle's were never known."""
    form, text = RecordFormat.from_manifest(funnel.manifest), funnel.request_encoder.items.text
    keys = to_keys(pl.Series([id_ for id_ in ids if isinstance(id_, str) == text], dtype=_ID_TYPES[text]))
    return [(key, form.removal(key)) for key in keys]


def known_columns(funnel: Funnel, items: Iterable[ItemRow]) -> list[ItemRow]:
    """Leave of items the columns that a bundle knows."""
    known = funnel.request_encoder.item_columns
    return [ItemRow(id_, {c: value for c, value in columns.items() if c in known}) for id_, columns in items]


def changed_records(
    funnel: Funnel, version: str, change: Change, report: Report = lambda line: None
) -> dict[bytes, bytes]:
    """Return, by key, the records that a change adds to a version or replaces in it."""
    if change.version == version and change.records:
        return dict(change.records)
    return _encode_rows(funnel, change, report)


def _encode_rows(funnel: Funnel, change: Change, report: Report) -> dict[bytes, bytes]:
    """Encode the items of a change as they were given; those that the version refuses are reported and left out."""
    rows, gone = known_columns(funnel, change.rows(report)), encode_removals(funnel, change.removed)
    try:
        return dict(gone + encode_records(funnel, rows)) if rows else dict(gone)
    except RequestError:
        return dict(gone) | dict(pair for row in rows for pair in _encode_alone(funnel, row, report))


def _encode_alone(funnel: Funnel, row: ItemRow, report: Report) -> Iterable[tuple[bytes, bytes]]:
    """Encode one item; none if it is refused, which is reported."""
    try:
        return encode_records(funnel, [row])
    except RequestError as error:
        report(f"item {row.id!r} is left out: {error}")
        return []


_ID_TYPES = (pl.Int64, pl.String)
AS_OF_MARGIN = 600_000
"""ms by which the clocks of upserts and of a table's as-of may differ: upserts of so long before it stay on top."""
NAMED = 5
"""Items that a line names."""
GIVE = "`corank export` and `corank refresh` take --items-as-of"


@dataclass(frozen=True)
class MergedItems:
    """What became of the items that were upserted before a version went live."""

    version: str
    known: bool
    """Whether it is known which upserts the version's table contains."""
    kept: list[Id]
    """On top of the table: they came later, or it is not known whether the table contains them."""
    overridden: list[Id]
    """The table contains them: its rows count."""
    lacking: list[Id]
    """They came before the table's as-of, and it lacks them: they are not known any more."""
    removed: list[Id] = field(default_factory=list)
    """They were removed later than the table, or it is not known whether it has them still."""

    def lines(self) -> Iterator[str]:
        """The lists in words, a line each; the first few items are named."""
        if self.kept:
            hint = "" if self.known else f"; as of when its table is was not given: {GIVE}"
            yield f"{_count(self.kept)} since {self.version} was read: put on top{_name(self.kept)}{hint}"
        if self.removed:
            count = _count(self.removed).replace("came", "were removed")
            yield f"{count} since {self.version} was read: removed again{_name(self.removed)}"
        if self.overridden:
            yield f"{_count(self.overridden)} before the table was read: its rows count{_name(self.overridden)}"
        if self.lacking:
            yield f"{_count(self.lacking)} before the table was read and are not in it: gone{_name(self.lacking)}"


def _count(ids: list[Id]) -> str:
    return f"{len(ids):,} item{'s'[: len(ids) > 1]} came"


def _name(ids: list[Id]) -> str:
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f": {', '.join(map(str, ids[:NAMED]))}{more}"


def find_base(store: Store, state: StoreState, as_of: ItemsAsOf | None, report: Report) -> int:
    """Find the last change that a table of items contains.

    Args:
        store: the store.
        state: its head.
        as_of: of the table; None if it is not known.
        report: receives why an as-of is not of this store.

    Returns:
        Its number; 0 if the table is not known to contain any.

    Raises StoreError.
    """
    if as_of is None:
        return 0
    if as_of.change is not None:
        if not holds_change(store, state, as_of.change, as_of.id):
            report(
                f"{store.address} has no {as_of}: it is another store, or lost writes; all upserts stay on top"
            )
            return 0
        return as_of.change
    assert as_of.time is not None
    base = state.journal_from - 1
    for seq, change in read_journal(store, base, state.seq):
        if change.at > as_of.time - AS_OF_MARGIN:
            break
        base = seq
    return base


def list_merged(
    store: Store,
    state: StoreState,
    version: str,
    funnel: Funnel,
    facts: VersionFacts,
    records: Mapping[bytes, bytes],
    new: bool,
) -> MergedItems:
    """List what became of the items that were upserted before a version went live.

    Args:
        store: the store.
        state: its head before the version went live.
        version: its name.
        funnel: of its bundle.
        facts: of the version, as before.
        records: by key, what was put on top of it.
        new: whether the store did not have the version.
    """
    form = RecordFormat.from_manifest(funnel.manifest)
    gone = dict.fromkeys(key for key, record in records.items() if form.is_removal(key, record))
    kept = to_ids(key for key in records if key not in gone).to_list()
    dropped: list[Id] = []
    if new:
        changes = read_journal(store, state.journal_from - 1, facts.base)
        ids: dict[Id, None] = {}
        for _, change in changes:
            ids |= dict.fromkeys(row.id for row in change.rows())
            for id_ in change.removed:
                ids.pop(id_, None)
        dropped = [id_ for id_ in ids if to_keys(pl.Series([id_]))[0] not in records]
    present = _find(funnel, dropped)
    return MergedItems(
        version,
        not new or funnel.manifest.items_as_of is not None,
        kept,
        [id_ for id_ in dropped if id_ in present],
        [id_ for id_ in dropped if id_ not in present],
        to_ids(gone).to_list(),
    )


def _find(funnel: Funnel, ids: Iterable[Id]) -> set[Id]:
    """The ids that a bundle has."""
    table = funnel.request_encoder.items.layers[0].records.ids
    wanted = pl.Series([id_ for id_ in ids if isinstance(id_, str) == (table.values.dtype == pl.String)])
    return set(wanted.filter(table.find(wanted) >= 0).to_list()) if len(wanted) else set()
