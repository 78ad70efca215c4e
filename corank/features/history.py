"""Which events a history has; and events that a row lists, in columns of one length: ids, times and attributes.

The lists of one request are arrays where all values are plain: as columns of polars they would cost a millisecond.

Letters: N rows · E events of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from corank.core.arrow import to_numbers
from corank.core.errors import DataError
from corank.core.hash_index import fill_nulls, null_mask
from corank.core.ragged import concat_ranges
from corank.core.time import DAY, EARLIEST, LATEST, moment_to_ms
from corank.core.types import Ints, Longs, Mask
from corank.features.encoding import as_int64, to_identifiers
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class EventLists:
    """The columns that list the events of a history."""

    column: str
    """Of the ids of items."""
    times: str | None = None
    separator: str | None = None
    """Splits texts into values."""

    @property
    def name(self) -> str:
        """Name of the events, by which histories of the same columns share them; it may be that of a file."""
        parts = (self.column, self.times or "", self.separator or "")
        return "list." + ".".join(map(_plain, parts))


def _plain(name: str) -> str:
    """Write a name so that it may be one of a file."""
    return "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in name)


EventAge = Literal["time", "events"]
"""How old an event of a history is at the request: in days, or in newer events of the history."""


def check_grid(every: timedelta) -> None:
    """Raise ValueError unless times can be cut to a grid of this step."""
    if not every or (every > DAY and every % DAY):
        raise ValueError("every must be above 0s, and whole days where it is more than one")


@dataclass(frozen=True)
class History:
    """Which events of a user a history lists."""

    of: str
    """The feature by which its values are encoded: that of the item's id, or itself if they are no items."""
    event: str | None
    """The label that must be 1; any exposed candidate if None."""
    lag: timedelta
    """An event younger than this at the request is not known yet."""
    every: timedelta | None
    """Frozen at the last multiple of this before the request; at the request if None."""
    half_life: timedelta | None
    """An event that is older by this much than another counts half as much; all count alike if None."""
    last: int
    """The newest events, at most."""
    lists: EventLists | None = None
    """The columns that list its events, if they are listed."""
    table: str | None = None
    """The table of `data.events` that has its events; those of the log's candidates if neither is given."""
    values: str | None = None
    """The column of the table that holds its values, if they are no items."""

    @property
    def events(self) -> str:
        """Name of its events: histories of one source and one item id feature share them."""
        if self.lists is not None:
            return f"{self.of}.{self.lists.name}"
        return f"{self.of}.table.{self.table}" if self.table else f"{self.of}.{self.event or 'exposed'}"

    @property
    def timed(self) -> bool:
        """Whether the times of its events are known."""
        return self.lists is None or self.lists.times is not None

    def known_after(self, data: DataSettings) -> timedelta:
        """How long after an event it is known: the lag, and the time that the label takes to mature."""
        return self.lag + (data.matures(self.event) if self.event else timedelta())


Values = Longs | pl.Series
"""Whole numbers as an array, or a column of any type."""
ListParts = tuple[Ints, Values]
"""N lists: the length of each, and their values, one list after another."""


@dataclass(frozen=True)
class ListedEvents:
    """The events of N rows, the oldest first."""

    length: Ints
    """Of each row: (N,)."""
    items: Values
    """Ids of items, whole numbers or text: (E,)."""
    times: Longs | None
    """ms UTC, ascending within a row: (E,); None if they are not known."""
    parallel: dict[str, Values]
    """By column, an attribute of each event: (E,)."""

    @classmethod
    def read(
        cls, lists: EventLists, parts: Mapping[str, ListParts], text: bool, describe: Callable[[int], str]
    ) -> Self:
        """Read the events of N rows; one without an item is left out. Those of one time stay in their order.

        Args:
            lists: which columns hold the ids and the times.
            parts: these, and those of attributes, by column: N lists each.
            text: whether ids of items are text; else texts of whole numbers are read as such.
            describe: names a row, for messages.

        Raises:
            DataError: the lists of a row differ in length, an event has no time, or a value is of another type.
        """
        length, items = parts[lists.column]
        for name, (other, _) in parts.items():
            if (unequal := np.flatnonzero(other != length)).size:
                n = int(unequal[0])
                raise DataError(
                    f"{describe(n)}: column '{lists.column}' lists {length[n]} events and '{name}' {other[n]}; "
                    "lists of one history must be of one length"
                )
        items = _to_ids(items, text, lists, describe)
        row = np.repeat(np.arange(len(length)), length)
        order = np.flatnonzero(_is_known(items))
        times = None
        if lists.times is not None:
            times, known = to_times(parts[lists.times][1], f"{describe(0)}: column '{lists.times}'")
            if (untimed := order[~known[order]]).size:
                raise DataError(
                    f"{describe(int(row[untimed[0]]))}: column '{lists.times}': a time is null; "
                    "an event without a time cannot be placed: leave it out of all lists"
                )
            order = order[np.lexsort((times[order], row[order]))]
        beside = {n: v for n, (_, v) in parts.items() if n not in (lists.column, lists.times)}
        return cls(length, items, times, beside).take(
            np.bincount(row[order], minlength=len(length)).astype(np.int32), order
        )

    def take(self, length: Ints, at: Longs) -> Self:
        """Keep some events, so many of each row: (N,), (E,)."""
        return type(self)(
            length,
            self.items[at],
            None if self.times is None else self.times[at],
            {name: values[at] for name, values in self.parallel.items()},
        )

    def newest(self, most: int) -> Self:
        """Keep the last `most` events of each row."""
        kept = np.minimum(self.length, most)
        ends = np.cumsum(self.length, dtype=np.int64)
        return self.take(kept, concat_ranges(ends - kept, kept))


def _to_ids(items: Values, text: bool, lists: EventLists, describe: Callable[[int], str]) -> Values:
    """Convert ids to text, or to whole numbers."""
    if isinstance(items, np.ndarray):
        return items
    where = f"{describe(0)}: column '{lists.column}'"
    if lists.separator is not None and not text and items.dtype == pl.String:
        whole = items.cast(pl.Int64, strict=False)
        if (wrong := items.filter(whole.is_null() & items.is_not_null())).len():
            raise DataError(f"{where}: ids of items are whole numbers; received {wrong[0]!r}")
        return whole
    return to_identifiers(items, where)


def split_aligned(values: pl.Series, separator: str | None, where: str) -> tuple[Ints, pl.Series]:
    """Split lists, or texts, into lengths (N,) and values, one after another; nulls and blanks stay as nulls.

    A text without any value is an empty list. Raises DataError for values that are neither lists nor such texts.
    """
    if values.null_count() == len(values):
        return np.zeros(len(values), dtype=np.int32), pl.Series([], dtype=pl.Null)
    if separator is not None and not values.dtype.is_nested():
        texts = pc.utf8_trim_whitespace(values.cast(pl.String).to_arrow())
        array = pc.split_pattern(pc.if_else(pc.equal(texts, ""), None, texts), separator)
    elif isinstance(values.dtype, pl.List | pl.Array):
        if isinstance(
            values.dtype.inner, pl.Struct
        ):  # polars cannot hand a key with a null character to Arrow
            raise DataError(
                f"{where}: column '{values.name}': expected single values in a list; "
                f"received {values.drop_nulls()[0].to_list()!r:.100}"
            )
        array = values.to_arrow()
    else:
        expected = "lists" if separator is None else f"texts separated by {separator!r}"
        raise DataError(
            f"{where}: column '{values.name}': expected {expected}; "
            f"received {values.drop_nulls()[0]!r} ({values.dtype})"
        )
    length = to_numbers(pc.list_value_length(array)).astype(np.int32)
    flat = array.flatten()
    if pa.types.is_nested(flat.type):
        raise DataError(f"{where}: column '{values.name}': expected single values, not {flat[0].as_py()!r}")
    if pa.types.is_large_string(flat.type) or pa.types.is_string(flat.type):
        flat = pc.utf8_trim_whitespace(flat)
        flat = pc.if_else(pc.equal(flat, ""), None, flat)
    return length, pl.Series(values.name, flat)


def split_plain(value: Any, separator: str | None) -> ListParts | None:
    """Split what one request has in a column, as `split_aligned` splits it, but in a tenth of the time.

    Returns:
        One list; None unless it is of whole numbers or of texts, or separated texts, without blanks around them.
    """
    if value is None:
        value = []
    elif separator and type(value) is str:
        stripped = value.strip(" ")
        value = [part.strip(" ") for part in stripped.split(separator)] if stripped else []
    if type(value) is not list:
        return None
    length = np.array([len(value)], dtype=np.int32)
    if not value:
        return length, np.empty(0, dtype=np.int64)
    if (numbers := as_int64(value)) is not None:
        return length, numbers
    if set(map(type, value)) != {str} or not all(value) or list(map(str.strip, value)) != value:
        return None
    try:
        return length, pl.Series(value, dtype=pl.String)
    except UnicodeEncodeError:
        return None


def _is_known(values: Values) -> Mask:
    """Where values are not null: (E,)."""
    if isinstance(values, np.ndarray) or not values.null_count():
        return np.ones(len(values), dtype=np.bool_)
    return ~null_mask(values)


def to_times(values: Values, where: str) -> tuple[Longs, Mask]:
    """Convert datetimes (without a zone: UTC), dates, ms since 1970 UTC, or texts of these to ms.

    Returns:
        Times, and which of them are known: (E,), (E,).

    Raises DataError, which begins with `where`, for values of another type.
    """
    known = _is_known(values)
    times, whole = (values, known) if isinstance(values, np.ndarray) else _read_times(values, where)
    far = known & ~((times >= EARLIEST) & (times <= LATEST) & whole)
    if far.any():
        raise DataError(f"{where}: expected years 1 to 9999; received {values[int(far.argmax())]}")
    return times, known


def _read_times(values: pl.Series, where: str) -> tuple[Longs, Mask]:
    """Convert a column to ms; and say which of them are whole numbers of 64 bits: (E,), (E,)."""
    kind = values.dtype
    if kind == pl.String:
        return _parse_times(values, where), np.ones(len(values), dtype=np.bool_)
    if kind == pl.Date:
        values = values.cast(pl.Datetime("ms"))
    if isinstance(values.dtype, pl.Datetime):
        values = values.dt.epoch("ms")
    elif not (kind.is_integer() or kind == pl.Null):
        raise DataError(f"{where}: expected times (datetimes, dates, or whole milliseconds); received {kind}")
    whole = values.cast(pl.Int64, strict=False)
    return fill_nulls(whole), _is_known(whole)


def _parse_times(texts: pl.Series, where: str) -> Longs:
    """Read texts of whole ms or ISO 8601; of a null any: (E,)."""
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == texts.null_count():
        return fill_nulls(whole)
    array = texts.to_arrow().dictionary_encode()
    distinct = pl.Series(array.dictionary)
    read = distinct.cast(pl.Int64, strict=False).to_list()
    for n, text in enumerate(distinct.to_list()):
        try:
            read[n] = moment_to_ms(text) if read[n] is None else read[n]
        except ValueError:
            raise DataError(
                f"{where}: expected ISO 8601, such as 2026-04-29T12:00:00+08:00, or whole ms since 1970; "
                f"received {text!r}"
            ) from None
    times: Longs = np.array(read, dtype=np.int64)[to_numbers(array.indices)]
    return times
