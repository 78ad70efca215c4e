"""What a caller asks: REQUEST.json, its fields named where one is wrong."""

import difflib
import json
from pathlib import Path
from typing import Any, Self

import polars as pl
from pydantic import Field, PositiveInt

from corank.errors import ConfigError, RequestError
from corank.settings import Settings, validated


class Request(Settings):
    """REQUEST.json: columns by side, and the candidates to rank."""

    user: dict[str, Any]
    """`id`, and the user's columns; a history as a list of item ids, the newest last."""
    context: dict[str, Any] = {}
    time: str | int | None = None
    candidates: list[int | str | dict[str, Any]] = Field(min_length=1)
    """Item ids, or `{"id": …}` with the pair's cross columns and, for an unknown item, its item columns."""
    keep: dict[str, PositiveInt] = {}
    """Quotas for this request, by stage."""
    trace: bool = False

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
            return validated(cls, held, source)
        except ConfigError as error:
            raise RequestError(str(error)) from None


def candidates(request: Request) -> tuple[list[Any], list[dict[str, Any]]]:
    """The candidates' ids, and what else is given of each. Raises RequestError for one without id or given twice."""
    ids: list[Any] = []
    described: list[dict[str, Any]] = []
    for n, candidate in enumerate(request.candidates):
        columns = dict(candidate) if isinstance(candidate, dict) else {"id": candidate}
        if type(columns.get("id")) not in (int, str):
            raise RequestError(
                f"candidates.{n}: needs an `id`, a whole number or text; received {candidate!r}"
            )
        ids.append(columns.pop("id"))
        described.append(columns)
    if len(set(ids)) < len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise RequestError(f"candidates: {twice!r} is there twice; give each candidate once")
    return ids, described


def series(name: str, values: list[Any], where: str) -> pl.Series:
    """A column of JSON values. Raises RequestError, which names `where`, for values of mixed types."""
    if any(isinstance(value, float) for value in values):
        # JSON writers tell 3 from 3.0 or do not: numbers are numbers
        values = [float(value) if type(value) is int else value for value in values]
    try:
        return pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{where}: '{name}' mixes types or is out of range: {reason}") from None


def unknown_column(column: str, known: set[str]) -> str:
    """What to say of a column that is not among the known ones."""
    near = difflib.get_close_matches(column, sorted(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"the bundle knows no '{column}' here; {hint}"
