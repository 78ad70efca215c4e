"""Events encoded, a column for each part of `Events`, and their files, written frame by frame.

Letters: E events.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import append_array
from corank.core.hash_index import Keys
from corank.features.encoders import Encoders
from corank.features.history import EventParts, History
from corank.features.vocabulary import hash_values


@dataclass(frozen=True)
class EventEncoder:
    """Encodes events of a history that is listed: items by their feature, and what else an event has."""

    encoders: Encoders
    items: Keys
    """The distinct items, ascending."""

    def encode(
        self, history: History, parts: EventParts, items: pl.Series, columns: Mapping[str, pl.Series]
    ) -> pl.DataFrame:
        """Encode E events. Raises DataError for values that a feature cannot encode.

        Args:
            history: one of those that share the events.
            parts: what is kept of an event.
            items: ids: (E,).
            columns: attributes of events, by column: (E,).

        Returns:
            A column for each part but the time. Items that are in no table have the ordinal −1.
        """
        schema = self.encoders.schema
        arrays: dict[str, NDArray[Any]] = {}
        ordinals = np.full(len(items), -1) if history.values else self.items.find(items)
        arrays |= {
            "items": self.encoders.codes(history.of, items),
            "ordinals": ordinals.astype(np.int32),
        }
        if parts.keys:
            arrays["keys"] = hash_values(items, history.of)
        for name, part in parts.attributes.items():
            arrays[part] = self.encoders.codes(name, columns[schema.column(name)])
        for name, part in parts.attribute_keys.items():
            arrays[part] = hash_values(columns[schema.column(name)], name)
        return pl.DataFrame(arrays)


def write_events(
    folder: Path, name: str, parts: EventParts, frames: Iterable[pl.DataFrame], count: int
) -> int:
    """Write all parts but the offsets of `count` events, from frames with a column for each part, in order.

    Returns:
        How many events are of items that are not in the tables.
    """
    unknown = 0
    with ExitStack() as stack:
        append = {
            part: stack.enter_context(append_array(folder / f"{name}.{part}.npy", (count,), kind))
            for part, kind in parts.types.items()
        }
        for frame in frames:
            unknown += int((frame["ordinals"] < 0).sum())
            for part, add in append.items():
                add(frame[part].to_numpy())
    return unknown
