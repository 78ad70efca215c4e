"""The candidates of a request: their ids, and the numbers that come with them, by which stages order them.

Letters: n candidates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corank.core.errors import RequestError
from corank.core.types import Floats, Ints, Longs
from corank.features.vocabulary import as_int64
from corank.serving.funnel.request import NumberIds, Request

LARGEST = float(np.finfo(np.float32).max)
"""Values are 32-bit floats, in training as here."""


@dataclass(frozen=True)
class CandidateList:
    """The candidates of a request, in the order given."""

    ids: Sequence[Any]
    numbers: Longs | None
    """The ids if all are whole numbers, else None."""
    columns: list[dict[str, Any]]
    """The columns given with each candidate; empty if no candidate has any."""


def parse_candidates(request: Request) -> CandidateList:
    """Read the candidates of a request that has some. Raises RequestError for one that has no id or is given twice."""
    ids: Any = request.candidates
    columns: list[dict[str, Any]] = []
    if isinstance(ids, NumberIds):
        numbers: Longs | None = ids.numbers
    else:
        numbers = as_int64(ids)
        if numbers is None and not set(map(type, ids)) <= {int, str}:
            ids, columns = _split_columns(ids)
            numbers = as_int64(ids)
    if _repeats(ids, numbers):
        ((twice, _),) = Counter(ids).most_common(1)
        raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
    return CandidateList(ids, numbers, columns)


def _repeats(ids: Sequence[Any], numbers: Longs | None) -> bool:
    # the lower halves of whole numbers are sorted in half the time, and are seldom equal where the numbers differ
    return (numbers is None or _has_equal(numbers.astype(np.int32))) and len(set(ids)) < len(ids)


def select_ids(ids: Sequence[Any], index: Longs) -> Sequence[Any]:
    """Select some ids."""
    return NumberIds(ids.numbers[index]) if isinstance(ids, NumberIds) else [ids[n] for n in index.tolist()]


def _has_equal(numbers: Ints) -> bool:
    numbers.sort()
    return bool(np.count_nonzero(numbers[1:] == numbers[:-1]))


def _split_columns(candidates: Sequence[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Split candidates into their ids, and the columns given with each."""
    ids: list[Any] = []
    columns: list[dict[str, Any]] = []
    for n, candidate in enumerate(candidates):
        fields = dict(candidate) if isinstance(candidate, dict) else {"id": candidate}
        if type(fields.get("id")) not in (int, str):
            raise RequestError(
                f"candidates.{n}: needs an `id`, a whole number or text; received {candidate!r}"
            )
        ids.append(fields.pop("id"))
        columns.append(fields)
    return ids, columns


def read_numbers(name: str, ids: Sequence[Any], columns: list[dict[str, Any]], needed: bool) -> Floats:
    """Read one of the data's `columns` of n candidates, NaN if no stage needs it: (n,).

    Raises RequestError if a candidate lacks what a stage needs, or has something else there.
    """
    if not needed:
        _check_numbers(name, columns)
        return np.full(len(ids), np.nan, dtype=np.float32)
    rows: list[dict[str, Any]] = columns or [{}] * len(ids)
    return np.array([read_number(name, id_, row) for id_, row in zip(ids, rows, strict=True)], np.float32)


def read_number(name: str, id_: Any, row: Mapping[str, Any]) -> float:
    """Read one of the data's `columns` of a candidate, or an item. Raises RequestError if it lacks it."""
    value: Any = row.get(name)
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise RequestError(
            f"candidates: {id_!r} has no number '{name}', by which candidates are ordered; received {value!r}"
        )
    return float(value)


def _check_numbers(name: str, columns: list[dict[str, Any]]) -> None:
    """Raise RequestError if a value that no stage needs, but the log keeps, is no number."""
    for row in columns:
        value = row.get(name)
        if value is not None and (type(value) not in (int, float) or not abs(value) <= LARGEST):
            raise RequestError(f"candidates: expected numbers in '{name}'; received {value!r:.100}")
