"""An item as readable values: its record's codes and numbers decoded, as far as they can be."""

from typing import Any

import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.features.encoders import Encoders


def describe_item(items: LayeredItems, encoders: Encoders, text: str) -> dict[str, Any] | None:
    """Describe an item.

    Args:
        items: the catalogue.
        encoders: of the bundle.
        text: the item's id as text.

    Returns:
        `id`; `newer`, whether it was added or changed since the bundle was exported; `features`, decoded, by name;
        `columns` by name. None if the item is unknown.
    """
    ids = items.layers[0].records.ids.values
    try:
        key = pl.Series([text]).cast(ids.dtype)
    except pl.exceptions.PolarsError:
        return None
    position = items.find(key)
    if position[0] < 0:
        return None
    row, placed = items.rows(position), encoders.schema.record_features
    features: dict[str, Any] = {n: _decode(encoders, n, int(row.ids[0, k])) for k, n in enumerate(placed.ids)}
    for k, name in enumerate(placed.lists):
        features[name] = [_decode(encoders, name, code) for code in row.lists[k].flat().tolist()]
    features |= {name: _decode(encoders, name, row.numbers[0, at]) for name, at in placed.numbers_at.items()}
    for k, name in enumerate(placed.vectors):
        known = row.vectors[k].row[0] >= 0
        features[name] = _decode(encoders, name, row.vectors[k].dense()[0]) if known else None
    columns = {name: float(items.column(name, position)[0]) for name in items.layers[0].records.columns}
    newer = bool(position[0] >= items.bounds[1])
    return {"id": key[0], "newer": newer, "features": features, "columns": columns}


def _decode(encoders: Encoders, name: str, encoded: Any) -> Any:
    schema = encoders.schema
    return schema.features[name].decode(encoders.fitted.get(schema.table_of(name)), encoded)
