"""What a caller asks: REQUEST.json, its fields named where one is wrong."""

import difflib
import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from corank.core.errors import ConfigError, RequestError
from corank.core.settings import Settings, validate
from corank.core.time import now_ms, to_ms
from corank.core.types import Longs


class Request(Settings):
    """REQUEST.json: columns by side, and the candidates to rank."""

    user: dict[str, Any]
    """`id`, and the user's columns; a history as a list of item ids, the newest last, each as it is or as
    `{"id": …, "time": …}` where the history has a `half_life`."""
    context: dict[str, Any] = {}
    time: str | int | None = None
    """When it is asked, as ISO 8601 (without a zone: UTC) or ms since 1970 UTC; now unless given."""
    candidates: list[Any] | None = Field(None, min_length=1)
    """Those that the bundle retrieves, unless given. Item ids, or `{"id": …}` with the pair's logged columns and, for
    an unknown item, its item columns."""
    retrieve: PositiveInt | None = None
    """How many candidates to retrieve; as the bundle says unless given."""
    where: dict[str, Any] = {}
    """What is retrieved: by a column that may be filtered by, a value or a list of values."""
    keep: dict[str, PositiveInt] = {}
    """Quotas for this request, by stage."""
    trace: bool = False

    @property
    def moment(self) -> int:
        """Its time in ms since 1970 UTC. Raises RequestError."""
        return moment(self.time, "time") if self.time is not None else now_ms()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises RequestError."""
        try:
            held = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise RequestError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: not valid JSON: {error}") from None
        return cls.parse(held, str(path))

    @classmethod
    def parse(cls, held: Any, source: str = "request") -> Self:
        """Raises RequestError, which names each faulty field."""
        try:
            return validate(cls, held, source)
        except ConfigError as error:
            raise RequestError(str(error)) from None


def moment(value: Any, where: str) -> int:
    """A time in ms since 1970 UTC. Raises RequestError, which names `where`."""
    if type(value) is int:
        return value
    try:
        read = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise RequestError(
            f"{where}: expected ISO 8601, such as 2026-04-29T12:00:00+08:00, or whole ms since 1970; "
            f"received {value!r}"
        ) from None
    return to_ms(read if read.tzinfo else read.replace(tzinfo=UTC))


def history(name: str, events: Any, timed: bool) -> tuple[list[Any], list[int]]:
    """The item ids of a history, the newest last, and with `timed` their times. Raises RequestError."""
    if events is None:
        return [], []
    if not isinstance(events, list):
        raise RequestError(f"user.{name}: expected a list of item ids, the newest last; received {events!r}")
    if not timed and set(map(type, events)) <= {int, str}:
        return events, []
    ids = [event.get("id") if isinstance(event, dict) else event for event in events]
    for n, value in enumerate(ids):
        if type(value) not in (int, str) or (
            isinstance(events[n], dict) and events[n].keys() - {"id", "time"}
        ):
            raise RequestError(
                f'user.{name}.{n}: expected an item id, or {{"id": …, "time": …}}; received {events[n]!r}'
            )
    if not timed:
        return ids, []
    for n, event in enumerate(events):
        if not isinstance(event, dict) or "time" not in event:
            raise RequestError(
                f'user.{name}.{n}: the history has a half_life, so write {{"id": …, "time": …}}; received {event!r}'
            )
    return ids, [moment(event["time"], f"user.{name}.{n}.time") for n, event in enumerate(events)]


@dataclass(frozen=True)
class Candidates:
    ids: list[Any]
    numbers: Longs | None
    """The ids, where all are whole numbers."""
    described: list[dict[str, Any]]
    """What else is given of each, or nothing where it is of none."""


def candidates(request: Request) -> Candidates:
    """Raises RequestError for a candidate without id or given twice."""
    ids: list[Any] = request.candidates or []
    described: list[dict[str, Any]] = []
    numbers = whole(ids)
    if numbers is None and not set(map(type, ids)) <= {int, str}:
        ids, described = _described(ids)
        numbers = whole(ids)
    if _repeats(ids, numbers):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
    return Candidates(ids, numbers, described)


def _repeats(ids: list[Any], numbers: Longs | None) -> bool:
    if numbers is None:
        return len(set(ids)) < len(ids)
    ascending = np.sort(numbers)
    return bool((ascending[1:] == ascending[:-1]).any())


def _described(given: list[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    ids: list[Any] = []
    described: list[dict[str, Any]] = []
    for n, candidate in enumerate(given):
        columns = dict(candidate) if isinstance(candidate, dict) else {"id": candidate}
        if type(columns.get("id")) not in (int, str):
            raise RequestError(
                f"candidates.{n}: needs an `id`, a whole number or text; received {candidate!r}"
            )
        ids.append(columns.pop("id"))
        described.append(columns)
    return ids, described


def whole(values: list[Any]) -> Longs | None:
    """Whole numbers of 64 bits as an array, which is quicker than a series; None for anything else."""
    if set(map(type, values)) != {int}:
        return None
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return None


def series(name: str, values: list[Any], where: str) -> pl.Series:
    """A column of JSON values. Raises RequestError, which names `where`, for values of mixed types."""
    if float in set(map(type, values)):
        # JSON writers tell 3 from 3.0 or do not: numbers are numbers
        values = [float(value) if type(value) is int else value for value in values]
    try:
        return pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{where}: '{name}' mixes types or is out of range: {reason}") from None


def unknown_column(column: str, known: AbstractSet[str]) -> str:
    """What to say of a column that is not among the known ones."""
    near = difflib.get_close_matches(column, sorted(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"the bundle knows no '{column}' here; {hint}"
