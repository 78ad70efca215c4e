"""The candidates of a request: their ids, the numbers that come with them, and the filters of their retrieval.

Letters: n candidates.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.retrieval import Where, filter_columns
from corank.core.errors import DataError, RequestError
from corank.core.subnormal import flush_subnormals
from corank.core.types import Floats, Longs
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, Hash, Vocabulary, as_int64, hash_values, to_identifiers
from corank.features.feature_kind import Side
from corank.serving.funnel.request import NumberIds, Request, RequestWarning, refuse_unknown_column, to_series

LARGEST = float(np.finfo(np.float32).max)
"""Values are 32-bit floats, in training as here."""


ReadCandidates = tuple[Sequence[Any], Longs | None, list[dict[str, Any]]]
"""The candidates of a request, in the order given: their ids, these as an array if all are whole numbers, and the
columns given with each; none if no candidate has any."""


def parse_candidates(request: Request) -> ReadCandidates:
    """Read the candidates of a request that has some. Raises RequestError for one that has no id or is given twice."""
    ids: Any = request.candidates
    columns: list[dict[str, Any]] = []
    if type(ids) is NumberIds:
        numbers: Longs | None = ids.numbers
    else:
        numbers = as_int64(ids)
        if numbers is None and not set(map(type, ids)) <= {int, str}:
            ids, columns = _split_columns(ids)
            numbers = as_int64(ids)
    if _repeats(ids, numbers):
        ((twice, _),) = Counter(ids).most_common(1)
        raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
    return ids, numbers, columns


def _repeats(ids: Sequence[Any], numbers: Longs | None) -> bool:
    if numbers is not None:
        # the lower halves of whole numbers are sorted in half the time, and are seldom equal where the numbers differ
        halves = numbers.astype(np.int32)
        halves.sort()
        if not np.count_nonzero(halves[1:] == halves[:-1]):
            return False
    return len(set(ids)) < len(ids)


def select_ids(ids: Sequence[Any], index: Longs) -> Sequence[Any]:
    """Select some ids."""
    return NumberIds(ids.numbers.take(index)) if type(ids) is NumberIds else [ids[n] for n in index.tolist()]


def _split_columns(candidates: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Split candidates into their ids, and the columns given with each."""
    columns = [dict(one) if isinstance(one, dict) else {"id": one} for one in candidates]
    ids = [fields.pop("id", None) for fields in columns]
    if not set(map(type, ids)) <= {int, str}:
        n = next(n for n, id_ in enumerate(ids) if type(id_) not in (int, str))
        raise RequestError(
            f"candidates.{n}: needs an `id`, a whole number or text; received {candidates[n]!r}"
        )
    return ids, columns


def read_numbers(name: str, ids: Sequence[Any], columns: list[dict[str, Any]], needed: bool) -> Floats:
    """Read one of the data's `columns` of n candidates, NaN if no stage needs it: (n,).

    Raises RequestError if a candidate lacks what a stage needs, or has something else there.
    """
    if needed:
        rows: list[dict[str, Any]] = columns or [{}] * len(ids)
        values: list[Any] = [row.get(name) for row in rows]
        if not all(map(_is_number, values)):
            for id_, row in zip(ids, rows, strict=True):
                read_number(name, id_, row)  # one of them raises
        return flush_subnormals(np.array(values, dtype=np.float64).astype(np.float32))
    for row in columns:  # the log keeps what no stage needs
        value = row.get(name)
        if value is not None and not _is_number(value):
            raise RequestError(f"candidates: expected numbers in '{name}'; received {value!r:.100}")
    return np.full(len(ids), np.nan, dtype=np.float32)


def read_number(name: str, id_: Any, row: Mapping[str, Any]) -> float:
    """Read one of the data's `columns` of a candidate, or an item. Raises RequestError if it lacks it."""
    value: Any = row.get(name)
    if not _is_number(value):
        raise RequestError(
            f"candidates: {id_!r} has no number '{name}', by which candidates are ordered; received {value!r}"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


class FilterEncoder:
    """Encodes and checks the filters of requests to one bundle."""

    def __init__(self, encoders: Encoders) -> None:
        self._columns = filter_columns(encoders.schema)
        self._encoders = encoders.fitted

    def encode(self, request: Request) -> Where:
        """Encode the filters of a request.

        Raises RequestError for a column that is no filter, and for values of another type than the items'.
        """
        filters = []
        for column, values in request.where.items():
            if column not in self._columns:
                refuse_unknown_column("where", column, set(self._columns))
            try:
                hashed = hash_values(self._read(column, values), self._columns[column])
            except DataError as error:
                raise RequestError(f"where: {error}") from None
            filters.append((self._columns[column], tuple(sorted(set(hashed.tolist()) - {0}))))
        return tuple(sorted(filters))

    def warn(self, request: Request) -> list[RequestWarning]:
        """Say why no item passes the filters of a request, if it has any."""
        if not request.where:
            return []
        strange = [column for column, values in request.where.items() if not self._is_known(column, values)]
        reason = f"the bundle knows no such {', '.join(strange)}" if strange else "no item has them all"
        return [RequestWarning("filter", f"where: no item passes; {reason}")]

    def _read(self, column: str, values: Any) -> pl.Series:
        """The values of a filter. Raises RequestError or DataError for values of another type than the items'."""
        listed = values if isinstance(values, list) else [values]
        read = to_identifiers(to_series(column, listed, "where"), self._columns[column])
        dtype = self._type(column)
        if dtype is not None and read.dtype != dtype and read.null_count() < len(read):
            expected = "text" if dtype == pl.String else "whole numbers"
            value = next(value for value in listed if value is not None)
            raise RequestError(
                f"where.{column}: expected {expected}, as in the bundle; received {value!r:.100}"
            )
        return read

    def _type(self, column: str) -> pl.DataType | None:
        """The type of a column's values; None if the bundle has none."""
        encoder = self._encoders.get(self._columns[column])
        if isinstance(encoder, Vocabulary):
            return encoder.dtype if len(encoder.values) else None
        return encoder.dtype if isinstance(encoder, Hash) else None

    def _is_known(self, column: str, values: Any) -> bool:
        """Whether training knew some value of a filter, as far as the bundle can tell."""
        encoder = self._encoders.get(self._columns[column])
        if not isinstance(encoder, Vocabulary):
            return True
        codes = encoder.codes(self._read(column, values), self._columns[column])
        return bool((codes >= FIRST_KNOWN).any())


class NumberLimits:
    """The ranges of training of one bundle's numbers, by side and column."""

    def __init__(self, encoders: Encoders) -> None:
        schema = encoders.schema
        self._limits: dict[Side, dict[str, tuple[float, float]]] = {}
        for name, feature in schema.columns().items():
            encoder = encoders.fitted.get(name)
            if feature.is_input and encoder is not None and encoder.limits is not None:
                self._limits.setdefault(feature.side, {})[schema.column(name)] = encoder.limits

    def count(self, sides: Iterable[Side], rows: Sequence[Mapping[str, Any]], found: dict[str, int]) -> None:
        """Add to `found`, by `SIDE.COLUMN`, the numbers of rows of some sides that are clipped."""
        given = set[str]().union(*rows)
        for side in sides:
            for column, (low, high) in self._limits.get(side, {}).items():
                for row in rows if column in given else ():
                    value: Any = row.get(column)
                    if type(value) in (int, float) and not low <= value <= high:
                        name = f"{side}.{column}"
                        found[name] = found.get(name, 0) + 1
