"""The events of an earlier packing, as pieces for `SortEvents`: encoded again, of users that are still known.

Letters: E events.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import read_frame
from corank.core.hash_index import Keys
from corank.core.types import Ints
from corank.data.packing.pieces import write_piece
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace
from corank.data.state.earlier_pack import EarlierPack
from corank.data.state.event_trim import EventTrim
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, UNKNOWN
from corank.features.history import EventParts, Events, History
from corank.features.vocabulary import Vocabulary

USERS = 2**17
"""Users whose events are encoded at a time."""


def write_earlier_events(
    workspace: PackWorkspace, inputs: PackSources, history: History, encoders: Encoders
) -> list[Path]:
    """Write the log's events of an earlier packing. Returns the pieces, none if it had no such events.

    Args:
        workspace: of the packing; items and users are written.
        inputs: the tables, and the packing to continue from.
        history: one of those that share the events.
        encoders: of the features of columns.
    """
    name, earlier = history.events, inputs.start.earlier
    if earlier is None:
        return []
    if name not in inputs.start.events:
        workspace.report(f"events '{name}' begin now: {earlier.location} has none of them")
        return []
    sharing = [h for h in inputs.schema.histories().values() if h.events == name]
    trim = EventTrim.of(sharing, inputs.start.since, inputs.data)
    paths = []
    for n, piece in enumerate(_encode(inputs, workspace.packed, history, encoders, trim)):
        write_piece(workspace.spill, name, f"earlier-{n:05d}", piece)
        paths.append(workspace.spill / name / f"earlier-{n:05d}.arrow")
    return paths


def _encode(
    inputs: PackSources, packed: Path, history: History, encoders: Encoders, trim: EventTrim
) -> Iterator[pl.DataFrame]:
    """Encode the events of some users at a time."""
    earlier = inputs.start.earlier
    assert earlier is not None
    parts = EventParts.of(earlier.schema, history.events)
    events = Events.open(earlier.folder / "events", history.events, parts)
    users = read_frame(earlier.folder / "users.arrow")["user"]
    ids = read_frame(earlier.folder / "items" / "keys.arrow")["item"].unique(maintain_order=True)
    known = Keys(read_frame(packed / "users.arrow")["user"])
    items = Keys(read_frame(packed / "items" / "keys.arrow")["item"].unique(maintain_order=True))
    codes, ordinals = encoders.codes(history.of, ids), items.find(ids).astype(np.int32)
    moved, back = _move_codes(earlier, history, encoders), _find_codes(earlier, history, items)
    since = inputs.start.events[history.events]
    for first in range(0, len(users), USERS):
        end = min(first + USERS, len(users))
        user = known.find(users[first:end])
        start, stop = int(events.offsets[first]), int(events.offsets[end])
        owner = np.repeat(user, np.diff(events.offsets[first : end + 1]))
        time, ordinal, code = events.times[start:stop], events.ordinals[start:stop], events.items[start:stop]
        kept = np.flatnonzero((owner >= 0) & (time < since))
        kept = kept[trim.mark(owner[kept], time[kept])]
        ordinal, code = ordinal[kept], code[kept]
        yield pl.DataFrame(
            {
                "user": owner[kept].astype(np.int32),
                "times": time[kept],
                "items": np.where(ordinal < 0, moved[code], _take(codes, ordinal, UNKNOWN)),
                "row": start + kept,
                "ordinals": np.where(ordinal < 0, back[code], _take(ordinals, ordinal, -1)),
            }
        ).sort("user", maintain_order=True)


def _move_codes(earlier: EarlierPack, history: History, encoders: Encoders) -> Ints:
    """The new code of each code of an earlier packing: an event has no more than it when its item left the table."""
    owner, before = encoders.schema.table_of(history.of), earlier.encoders
    codes = before.fitted[before.schema.table_of(history.of)]
    moved = codes.find_rows(encoders.fitted[owner])
    return np.full(codes.size, UNKNOWN, dtype=np.int32) if moved is None else moved


def _find_codes(earlier: EarlierPack, history: History, items: Keys) -> Ints:
    """The index among items of each code of an earlier packing: an item that left the table may return."""
    codes = earlier.encoders.fitted[earlier.schema.table_of(history.of)]
    indices = np.full(codes.size, -1, dtype=np.int32)
    if isinstance(codes, Vocabulary):
        indices[FIRST_KNOWN:] = items.find(codes.values)
    return indices


def _take(values: Ints, ordinal: Ints, otherwise: int) -> Ints:
    """Take the values of items, `otherwise` where the item was unknown: (E,)."""
    if not len(values):
        return np.full(len(ordinal), otherwise, dtype=np.int32)
    item_values: Ints = np.where(ordinal < 0, otherwise, values[np.maximum(ordinal, 0)]).astype(np.int32)
    return item_values
