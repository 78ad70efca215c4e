"""Values of a request's user and context → what the query's row and derived features take of them, cached by value.

Values repeat, and a column of one value costs more to build than a request's whole query that is found in the cache.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import copysign
from types import NoneType
from typing import Any, NamedTuple

from corank.features.encoders import Encoders, RowValue, to_row_value
from corank.features.operands import OperandNames, Operands
from corank.serving.funnel.request import to_series

CACHED_VALUES = 2**16
"""Single values that are cached, of all features."""
CACHED_LISTS = 2**12
"""Lists that are cached, of all features."""
CACHED_LENGTH = 256
"""Longer texts are not cached, nor lists whose texts are longer in all."""
CACHED_ITEMS = 32
"""Longer lists are not cached."""
SINGLE = {int, bool, NoneType}
LISTED = {int, str, NoneType}


class EncodedValue(NamedTuple):
    """A value of one feature, encoded."""

    row: RowValue
    """What the row holds of it."""
    operands: Operands
    """What derived features take of it: (1)."""


class QueryValues:
    """Encodes values of the query features of one bundle. Safe to share between threads."""

    def __init__(self, encoders: Encoders, columns: Mapping[str, str], wanted: OperandNames) -> None:
        """
        Args:
            encoders: of the bundle.
            columns: of the features, by name.
            wanted: those that derived features take.
        """
        self._encoders, self._columns = encoders, columns
        self._wanted = {name: wanted.among([name]) for name in columns}
        self._single = lru_cache(maxsize=CACHED_VALUES, typed=True)(self._encode)
        self._lists = lru_cache(maxsize=CACHED_LISTS)(self._encode_list)

    def encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value of a feature. What is equal but of another type is another value: 1, 1.0, true and "1".

        Raises DataError, RequestError.
        """
        kind = type(value)
        if kind is str:
            known = len(value) <= CACHED_LENGTH
        elif kind is float:
            known = value != 0 or copysign(1, value) > 0  # -0.0 equals 0.0
        elif kind is list:
            return self._lists(name, tuple(value)) if _is_short(value) else self._encode(name, value)
        else:
            known = kind in SINGLE
        return self._single(name, value) if known else self._encode(name, value)

    def _encode_list(self, name: str, values: tuple[Any, ...]) -> EncodedValue:
        return self._encode(name, list(values))

    def _encode(self, name: str, value: Any) -> EncodedValue:
        """Encode a value by the code that packing uses, as a column of one row."""
        values, encoders = to_series(self._columns[name], [value], "request"), self._encoders
        row = to_row_value(encoders.schema.features[name], encoders.encode(name, values))
        return EncodedValue(row, Operands.of(encoders, self._wanted[name], lambda _: values, 1))


def _is_short(values: list[Any]) -> bool:
    """Whether a list is cached: of few whole numbers and texts, none of which equals one of another type."""
    if len(values) > CACHED_ITEMS or not LISTED.issuperset(map(type, values)):
        return False
    return sum(len(value) for value in values if type(value) is str) <= CACHED_LENGTH
