"""Events that a row lists, in columns of one length: ids of items, times, and attributes of the events.

The lists of one request are read by numpy where all values are plain: a data frame of one row costs a millisecond.

Letters: N rows · E events of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from corank.core.arrow import to_numbers
from corank.core.errors import DataError
from corank.core.ragged import concat_ranges
from corank.core.time import EARLIEST, LATEST, moment_to_ms
from corank.core.types import Ints, Longs, Mask
from corank.features.encoding import as_int64, to_identifiers


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


@dataclass(frozen=True)
class ListedEvents:
    """The events of N rows, the oldest first."""

    length: Ints
    """Of each row: (N,)."""
    items: pl.Series
    """Ids of items, whole numbers or text: (E,)."""
    times: Longs | None
    """ms UTC, ascending within a row: (E,); None if they are not known."""
    parallel: dict[str, pl.Series]
    """By column, an attribute of each event: (E,)."""

    @classmethod
    def read(
        cls,
        lists: EventLists,
        columns: Mapping[str, pl.Series],
        text: bool,
        describe: Callable[[int], str],
    ) -> Self:
        """Read the events of N rows; one without an item is left out. Those of one time stay in their order.

        Args:
            lists: which columns hold the ids and the times.
            columns: these, and those of attributes: (N,) lists, or texts if there is a separator.
            text: whether ids of items are text; else texts of whole numbers are read as such.
            describe: names a row, for messages.

        Raises:
            DataError: the lists of a row differ in length, an event has no time, or a value is of another type.
        """
        parts = {
            name: split_aligned(values, lists.separator, describe(0)) for name, values in columns.items()
        }
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
        order = np.flatnonzero(items.is_not_null().to_numpy())
        times = None
        if lists.times is not None:
            times, known = to_times(parts[lists.times][1], f"{describe(0)}: column '{lists.times}'")
            if (untimed := order[~known[order]]).size:
                raise DataError(
                    f"{describe(int(row[untimed[0]]))}: column '{lists.times}': a time is null; "
                    "an event without a time cannot be placed: leave it out of all lists"
                )
            order = order[np.lexsort((times[order], row[order]))]
            times = times[order]
        return cls(
            np.bincount(row[order], minlength=len(length)).astype(np.int32),
            items.gather(order),
            times,
            {
                name: values.gather(order)
                for name, (_, values) in parts.items()
                if name not in (lists.column, lists.times)
            },
        )

    def newest(self, most: int) -> Self:
        """Keep the last `most` events of each row."""
        kept = np.minimum(self.length, most)
        ends = np.cumsum(self.length, dtype=np.int64)
        at = concat_ranges(ends - kept, kept)
        return type(self)(
            kept,
            self.items.gather(at),
            None if self.times is None else self.times[at],
            {name: values.gather(at) for name, values in self.parallel.items()},
        )


def _to_ids(items: pl.Series, text: bool, lists: EventLists, describe: Callable[[int], str]) -> pl.Series:
    """Convert ids to text, or to whole numbers."""
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
        raise DataError(
            f"{where}: column '{values.name}': expected single values in a list; received {flat[0].as_py()!r}"
        )
    if pa.types.is_large_string(flat.type) or pa.types.is_string(flat.type):
        flat = pc.utf8_trim_whitespace(flat)
        flat = pc.if_else(pc.equal(flat, ""), None, flat)
    return length, pl.Series(values.name, flat)


def to_times(values: pl.Series, where: str) -> tuple[Longs, Mask]:
    """Convert datetimes (without a zone: UTC), dates, ms since 1970 UTC, or texts of these to ms.

    Returns:
        Times, and which of them are known: (E,), (E,).

    Raises DataError, which begins with `where`, for values of another type.
    """
    kind = values.dtype
    known = values.is_not_null().to_numpy()
    if kind == pl.Date:
        values = values.cast(pl.Datetime("ms")).dt.epoch("ms")
    elif isinstance(kind, pl.Datetime):
        values = values.dt.epoch("ms")
    elif kind == pl.String:
        values = _read_times(values, where)
    elif kind.is_unsigned_integer():
        values = values.cast(pl.Int128)  # to be compared with times before 1970
    elif not (kind.is_integer() or kind == pl.Null):
        raise DataError(f"{where}: expected times (datetimes, dates, or whole milliseconds); received {kind}")
    far = (
        values.filter(~values.is_between(EARLIEST, LATEST)) if len(values) and known.any() else values.head(0)
    )
    if len(far):
        raise DataError(f"{where}: expected times of the years 1 to 9999; received {far[0]}")
    return values.cast(pl.Int64).fill_null(0).to_numpy(), known


def _read_times(values: pl.Series, where: str) -> pl.Series:
    """Read texts of whole ms or ISO 8601."""
    whole = values.cast(pl.Int64, strict=False)
    texts = values.filter(whole.is_null()).drop_nulls().unique()
    if not len(texts):
        return whole
    read = {}
    for text in texts.to_list():
        try:
            read[text] = moment_to_ms(text)
        except ValueError:
            raise DataError(
                f"{where}: expected ISO 8601, such as 2026-04-29T12:00:00+08:00, or whole ms since 1970; "
                f"received {text!r}"
            ) from None
    known = pl.DataFrame({"text": list(read), "ms": list(read.values())})
    dated = values.to_frame("text").join(known, on="text", how="left", maintain_order="left")["ms"]
    return whole.fill_null(dated) if whole.null_count() else whole


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
        times = None if lists.times is None else _plain_times(parts[lists.times])
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


def _plain_times(part: list[Any] | None) -> Longs | None:
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
