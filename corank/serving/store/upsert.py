"""New or changed items into the live version of a store."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from corank.core.errors import CorankError, RequestError
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Pairs, Store
from corank.serving.store.changes.journal import CHANGE_BYTES, Change, local_operator, record_change
from corank.serving.store.live_version import StoreState
from corank.serving.store.record_codec import RecordFormat
from corank.serving.store.store_clock import store_time


class VersionChangedError(CorankError):
    """Another version went live meanwhile; try again with it."""


def upsert(
    store: Store, version: str, funnel: Funnel, items: list[dict[str, Any]], by: str | None = None
) -> int:
    """Put new or changed items into the live version.

    Args:
        store: the store.
        version: the live version.
        funnel: of that version; it encodes the items.
        items: `id` and columns of each; a column that is left out is missing from then on.
        by: who does it, for the log; user@host of this process if None.

    Returns:
        The number of the change.

    Raises RequestError if a feature refuses an item, VersionChangedError if `version` is not live any more or not the
    funnel's, StoreError.
    """
    if funnel.manifest.content != version:
        raise VersionChangedError(
            f"{store.address}: {version} is live, items were read as of {funnel.manifest.content}"
        )
    table, records = f"changed/{version}", encode_records(funnel, items)
    while True:
        raw, state = StoreState.read(store)
        if state.live != version:
            raise VersionChangedError(
                f"{store.address}: {state.live} is live, {version} was when the items were read"
            )
        change = Change(version=version, at=store_time(store), items=items, records=records, before=state.id)
        facts = state.versions[version]
        changed = facts.changed + count_new(store, table, dict(records))
        counted = facts.model_copy(update={"changed": changed})
        after = state.model_copy(update={"versions": {**state.versions, version: counted}})
        after = after.with_change(change.id)
        entries: dict[str, Pairs] = {table: records} | record_change(
            after.seq, change, "upsert", by or local_operator()
        )
        _check_size(entries)
        if store.swap(raw, after.to_bytes(), entries):
            return after.seq


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


def encode_records(funnel: Funnel, items: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Encode items, `id` and columns of each, as keys and records. Raises RequestError."""
    columns = [{name: value for name, value in row.items() if name != "id"} for row in items]
    layer = funnel.request_encoder.encode_items([row["id"] for row in items], columns)
    return RecordFormat.from_manifest(funnel.manifest).encode(layer, np.arange(len(items)))
