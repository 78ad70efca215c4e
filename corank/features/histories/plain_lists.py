"""The lists of one request, read by numpy where all values are plain: a data frame of one row costs a millisecond.

Letters: E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from corank.core.time import EARLIEST, LATEST, moment_to_ms
from corank.core.types import Longs
from corank.features.histories.event_lists import EventLists, ListedEvents
from corank.features.vocabulary import as_int64

Values = Longs | pl.Series
"""Whole numbers as an array, or a column of any type."""
DIGITS = 18
"""Texts of up to so many digits are numbers of 64 bits."""


@dataclass(frozen=True)
class RequestEvents:
    """The events that one request lists, the oldest first."""

    items: Values
    """Ids of items: (E,)."""
    times: Longs | None
    """ms UTC, ascending: (E,); None if they are not known."""
    parallel: Mapping[str, Values]
    """By column, an attribute of each event: (E,)."""

    @classmethod
    def of(cls, listed: ListedEvents) -> Self:
        """Take the events of the only row."""
        return cls(listed.items, listed.times, listed.parallel)

    @classmethod
    def read_plain(cls, lists: EventLists, columns: Mapping[str, Any], text: bool) -> Self | None:
        """Read what `ListedEvents.read` reads of one row, if all values are plain.

        Plain are lists of whole numbers or of texts without blanks around them, and texts that separate such values;
        times are whole ms or ISO 8601. Nothing is refused here: `ListedEvents.read` says what is wrong with a value.

        Args:
            lists: which columns hold the ids and the times.
            columns: by name, the request's value of each of them, and of those of attributes.
            text: whether ids of items are text.

        Returns:
            The events; None if any value is another, or lists differ in length.
        """
        parts = {name: _split(values, lists.separator) for name, values in columns.items()}
        ids = _read_ids(parts[lists.column], columns[lists.column], text)
        times = None if lists.times is None else _read_times(parts[lists.times])
        beside = {n: _to_values(part) for n, part in parts.items() if n not in (lists.column, lists.times)}
        if ids is None or (times is None and lists.times is not None):
            return None
        parallel = {name: values for name, values in beside.items() if values is not None}
        if len(parallel) < len(beside) or {len(ids)} != set(map(len, [ids, *parallel.values()])):
            return None
        if times is None:
            return cls(ids, None, parallel)
        if len(times) != len(ids):
            return None
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            ids, times = ids[order], times[order]
            parallel = {name: values[order] for name, values in parallel.items()}
        if len(times) and not (times[0] >= EARLIEST and times[-1] <= LATEST):
            return None
        return cls(ids, times, parallel)


def _split(value: Any, separator: str | None) -> list[Any] | None:
    """Split what a request has in a column into plain values; None if some value is not plain."""
    if value is None:
        return []
    if separator and type(value) is str:
        stripped = value.strip(" ")
        value = [part.strip(" ") for part in stripped.split(separator)] if stripped else []
    if type(value) is not list:
        return None
    kinds = set(map(type, value))
    if kinds == {str}:
        return value if all(value) and list(map(str.strip, value)) == value else None
    return value if kinds <= {int} else None


def _read_ids(part: list[Any] | None, column: Any, text: bool) -> Values | None:
    """Read ids: of whole numbers also those that a text separates, as texts of a log have no other."""
    if part and type(part[0]) is str and not text:
        return _read_digits(part) if type(column) is str else None
    values = pl.Series([], dtype=pl.String) if part == [] and text else _to_values(part)
    return values if text == isinstance(values, pl.Series) else None


def _read_times(part: list[Any] | None) -> Longs | None:
    """Read whole ms, or texts of them or of ISO 8601."""
    if not part or type(part[0]) is int:
        return _to_numbers(part)
    if (times := _read_digits(part)) is not None:
        return times
    try:
        return np.array([int(one) if _is_digits(one) else moment_to_ms(one) for one in part], dtype=np.int64)
    except ValueError:
        return None


def _to_values(part: list[Any] | None) -> Values | None:
    """Convert texts to a column, whole numbers to an array."""
    if not part or type(part[0]) is int:
        return _to_numbers(part)
    try:
        return pl.Series(part, dtype=pl.String)
    except UnicodeEncodeError:
        return None


def _to_numbers(part: list[int] | None) -> Longs | None:
    return as_int64(part) if part else None if part is None else np.empty(0, dtype=np.int64)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS


def _read_digits(part: list[str]) -> Longs | None:
    """Read texts of digits alone."""
    return np.array(list(map(int, part)), dtype=np.int64) if all(map(_is_digits, part)) else None
