"""Items that a request names, as candidates and in histories, looked up in the catalogue at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.core.errors import DataError, RequestError
from corank.core.types import Longs
from corank.features.vocabulary import to_identifiers
from corank.serving.funnel.request import to_series


class WantedItems(NamedTuple):
    """Items that a request names, to be looked up."""

    where: str
    """The field of the request, for the error."""
    ids: Sequence[Any] | pl.Series
    numbers: Longs | None = None
    """The ids as an array, if they are known to be whole numbers."""

    @classmethod
    def of(cls, where: str, ids: Longs | pl.Series) -> "WantedItems":
        """Ids that are read already."""
        return cls(where, ids) if isinstance(ids, pl.Series) else cls(where, [], ids)


def find_items(items: LayeredItems, wanted: Sequence[WantedItems]) -> list[Longs]:
    """Look the items of several lists up in the catalogue, whole numbers all at once.

    Returns:
        The positions of each list's items, −1 for an unknown item.

    Raises RequestError if the ids of a list are of another type than the catalogue's.
    """
    whole = [one.numbers for one in wanted if one.numbers is not None]
    if items.text or not whole:
        return [_find_alone(items, one) for one in wanted]
    together = items.find_numbers(whole[0] if len(whole) == 1 else np.concatenate(whole))
    positions, begin = [], 0
    for one in wanted:
        if one.numbers is None:
            positions.append(_find_alone(items, one))
        else:
            positions.append(together[begin : begin + len(one.numbers)])
            begin += len(one.numbers)
    return positions


def _find_alone(items: LayeredItems, wanted: WantedItems) -> Longs:
    if wanted.numbers is None and not len(wanted.ids):
        return np.empty(0, dtype=np.int64)
    ids = wanted.ids if wanted.numbers is None else wanted.numbers.tolist()
    try:
        if items.text and isinstance(ids, list) and set(map(type, ids)) == {str}:
            positions = items.find_texts(ids)
            unknown = [ids[n] for n in np.flatnonzero(positions < 0)]
            to_series("id", unknown, wanted.where)  # raises for what is no text of UTF-8
            return positions
        series = ids if isinstance(ids, pl.Series) else to_series("id", [*ids], wanted.where)
        return items.find(to_identifiers(series, f"{wanted.where}.id"))
    except (DataError, TypeError):
        keys = items.layers[0].records.ids
        sample = keys.values[0] if len(keys) else None
        raise RequestError(
            f"{wanted.where}: ids are of another type than the bundle's, such as {sample!r}"
        ) from None
