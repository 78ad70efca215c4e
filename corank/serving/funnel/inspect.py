"""An item as people read it: its record's codes and numbers turned back into values, as far as they can be."""

from typing import Any

import numpy as np
import polars as pl

from corank.bundle.item_layers import Items
from corank.features.encoders import Encoders
from corank.features.scale import Bucket
from corank.features.schema import FIRST_KNOWN, MISSING, UNKNOWN
from corank.features.vocabulary import Vocabulary


def shown(items: Items, encoders: Encoders, text: str) -> dict[str, Any] | None:
    """`id`, and by feature its value: of a bucket its bounds, of a number what the model sees. None for no item."""
    ids = items.layers[0].records.ids.values
    try:
        key = pl.Series([text]).cast(ids.dtype)
    except pl.exceptions.PolarsError:
        return None
    place = items.find(key)
    if place[0] < 0:
        return None
    rows, placed = items.rows(place), encoders.schema.placed("item")
    found: dict[str, Any] = {
        name: _value(encoders, name, int(rows.ids[0, n])) for n, name in enumerate(placed.ids)
    }
    for n, name in enumerate(placed.lists):
        found[name] = [_value(encoders, name, code) for code in rows.lists[n].flat().tolist()]
    found |= {name: round(float(rows.numbers[0, n]), 4) for n, name in enumerate(placed.numbers)}
    columns = {name: float(items.column(name, place)[0]) for name in items.layers[0].records.columns}
    return {"id": key[0], "newer": bool(place[0] >= items.bounds[1]), "features": found, "columns": columns}


def _value(encoders: Encoders, name: str, code: int) -> Any:
    if code == MISSING:
        return None
    encoder = encoders.fitted[encoders.schema.table_of(name)]
    if code == UNKNOWN:
        return "unknown"
    if isinstance(encoder, Vocabulary):
        return encoder.values[code - FIRST_KNOWN]
    if isinstance(encoder, Bucket):
        edges = np.concatenate(([-np.inf], encoder.edges, [np.inf])).tolist()
        low, high = edges[code - FIRST_KNOWN], edges[code - FIRST_KNOWN + 1]
        return f"{low:g} … {high:g}"
    return f"row {code - FIRST_KNOWN}"
