"""An item as people read it: its record's codes and numbers turned back into values, as far as they can be."""

from typing import Any

import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.features.encoders import Encoders


def shown(items: LayeredItems, encoders: Encoders, text: str) -> dict[str, Any] | None:
    """`id`, and by feature its value: of a bucket its bounds, of a number what the model sees. None for no item."""
    ids = items.layers[0].records.ids.values
    try:
        key = pl.Series([text]).cast(ids.dtype)
    except pl.exceptions.PolarsError:
        return None
    place = items.find(key)
    if place[0] < 0:
        return None
    rows, placed = items.rows(place), encoders.schema.row_features("item")
    found: dict[str, Any] = {n: _value(encoders, n, int(rows.ids[0, k])) for k, n in enumerate(placed.ids)}
    for k, name in enumerate(placed.lists):
        found[name] = [_value(encoders, name, code) for code in rows.lists[k].flat().tolist()]
    found |= {name: _value(encoders, name, rows.numbers[0, at]) for name, at in placed.numbers_at.items()}
    columns = {name: float(items.column(name, place)[0]) for name in items.layers[0].records.columns}
    return {"id": key[0], "newer": bool(place[0] >= items.bounds[1]), "features": found, "columns": columns}


def _value(encoders: Encoders, name: str, encoded: Any) -> Any:
    schema = encoders.schema
    return schema.features[name].decode(encoders.fitted.get(schema.table_of(name)), encoded)
