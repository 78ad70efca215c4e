"""New or changed items into the live version of a store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corank.core.errors import CorankError
from corank.core.time import now_ms
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.base import Store
from corank.serving.store.live_version import Change, StoreState, journal_entry
from corank.serving.store.record_codec import RecordFormat


class VersionChangedError(CorankError):
    """Another version went live meanwhile; try again with it."""


def upsert(store: Store, version: str, funnel: Funnel, items: list[dict[str, Any]]) -> int:
    """Put new or changed items into the live version.

    Args:
        store: the store.
        version: the live version.
        funnel: of that version; it encodes the items.
        items: `id` and columns of each; a column that is left out is missing from then on.

    Returns:
        The number of the change.

    Raises RequestError if a feature refuses an item, VersionChangedError if `version` is not live any more or not the
    funnel's, StoreError.
    """
    if funnel.manifest.content != version:
        raise VersionChangedError(
            f"{store.address}: {version} is live, items were read as of {funnel.manifest.content}"
        )
    change = Change(version, now_ms(), items, encode_records(funnel, items))
    while True:
        raw, state = StoreState.read(store)
        if state.live != version:
            raise VersionChangedError(
                f"{store.address}: {state.live} is live, {version} was when the items were read"
            )
        after = state.model_copy(update={"seq": state.seq + 1})
        entries = {f"changed/{version}": change.records} | journal_entry(after.seq, change)
        if store.swap(raw, after.to_bytes(), entries):
            return after.seq


def encode_records(funnel: Funnel, items: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Encode items, `id` and columns of each, as keys and records. Raises RequestError."""
    columns = [{name: value for name, value in row.items() if name != "id"} for row in items]
    layer = funnel.request_encoder.encode_items([row["id"] for row in items], columns)
    return RecordFormat.from_manifest(funnel.manifest).encode(layer, np.arange(len(items)))
