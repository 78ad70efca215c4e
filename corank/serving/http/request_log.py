"""Served requests → Parquet files in the form of a log: a row per candidate, with the level it reached and its scores.

Labels are joined later. Each row also has the request as JSON and the version that answered, with which
`corank replay` computes the scores again.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from corank.core.errors import CorankError
from corank.core.files import atomic_file
from corank.features.encoders import Encoders
from corank.features.schema import Placement
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.ranking_result import RankingResult

MAX_ROWS, MAX_SECONDS = 200_000, 60.0
"""A file is written once there are so many rows, or so much time has passed."""
SERVED, REQUEST = "served_id", "served_request"
"""Columns: an id of each time a request is served; the request as JSON, with its time and candidates."""
VERSION = ("model_version", "items_seq")


class RequestLog:
    """Writes `served-*.parquet` into a folder. Safe to share between threads."""

    def __init__(self, folder: Path, share: float = 1.0) -> None:
        """
        Args:
            folder: is made if it is missing.
            share: of requests that are logged, evenly spread.

        Raises CorankError if the folder cannot be made.
        """
        self.folder, self.share = folder, share
        self._credit, self._rows, self._written_at = 0.0, 0, time.monotonic()
        self._lock = threading.Lock()
        self._pending: list[tuple[Funnel, RankingResult]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorankError(f"{folder}: served requests cannot be logged there: {error}") from None

    def add(self, funnel: Funnel, result: RankingResult) -> None:
        """Keep a request for the next file."""
        self._credit += self.share
        if self._credit >= 1:
            self._credit -= 1
            with self._lock:
                self._pending.append((funnel, result))
                self._rows += len(result.encoded.ids)

    def is_full(self) -> bool:
        """Whether a file is due."""
        late = time.monotonic() - self._written_at >= MAX_SECONDS
        return self._rows >= MAX_ROWS or (self._rows > 0 and late)

    def write(self) -> Path | None:
        """Write the kept requests to a file; None if there are none.

        Raises CorankError if the disk refuses; the kept requests are lost then.
        """
        with self._lock:
            pending, self._pending, self._rows = self._pending, [], 0
            self._written_at = time.monotonic()
        if not pending:
            return None
        path = self.folder / f"served-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
        try:
            by_model = groupby(pending, key=lambda one: id(one[0].request_encoder.encoders))
            groups = [list(group) for _, group in by_model]
            frames = [
                build_frame([result for _, result in group], group[0][0].request_encoder.encoders)
                for group in groups
            ]
            with atomic_file(path) as partial:
                # models may differ in their columns
                pl.concat(frames, how="diagonal_relaxed").write_parquet(partial)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise CorankError(f"{path}: {len(pending):,} served requests are not logged: {error}") from None
        return path


def build_frame(results: Sequence[RankingResult], encoders: Encoders) -> pl.DataFrame:
    """Build the rows of requests that one model answered, a row per candidate."""
    data, formats = results[0].manifest.data, _column_formats(encoders, "query")
    given = [result.request.user | result.request.context for result in results]
    one = {
        name: form.series(name, [columns.get(name) for columns in given]) for name, form in formats.items()
    }
    users = [result.request.user.get("id") for result in results]
    one[data.user] = formats.get(data.user, ColumnFormat()).series(data.user, users)
    times = pl.Series(data.time, [result.encoded.time for result in results], pl.Int64)
    one[data.time] = times.cast(pl.Datetime("ms", "UTC"))
    one |= {name: _unique_ids(name, len(results)) for name in [*data.request, SERVED] if name not in one}
    one[REQUEST] = pl.Series(REQUEST, [_request_json(result) for result in results])
    one |= {name: pl.Series(name, [getattr(result.manifest, name) for result in results]) for name in VERSION}
    request_of = np.repeat(np.arange(len(results)), [len(result.encoded.ids) for result in results])
    columns = {name: values.gather(request_of) for name, values in one.items()}
    ids = [id_ for result in results for id_ in result.encoded.ids]
    columns[data.item] = pl.Series(
        data.item, ids, results[0].encoded.items.layers[0].records.ids.values.dtype
    )
    columns |= _candidate_columns(results, encoders)
    level = data.level or "level"
    columns[level] = pl.Series(level, [one for result in results for one in find_levels(result)], pl.String)
    return pl.DataFrame(columns | _score_columns(results))


def _unique_ids(name: str, n: int) -> pl.Series:
    return pl.Series(name, [uuid.uuid4().hex for _ in range(n)])


def _request_json(result: RankingResult) -> str:
    """The request with its time and its candidates, which it may have left to the service."""
    encoded, request = result.encoded, result.request
    fields = msgspec.structs.asdict(request)
    del fields["retrieve"], fields["where"]
    fields |= {"time": encoded.time, "candidates": request.candidates or encoded.ids}
    return msgspec.json.encode(fields).decode()


@dataclass(frozen=True)
class ColumnFormat:
    """How tables write a column."""

    kind: Any = None
    """Type; None if it is taken from the values."""
    to_table: Callable[[Any], Any] = lambda value: value
    """Converts a request's value to a table's."""

    def series(self, name: str, values: list[Any]) -> pl.Series:
        """Convert values of requests to a column."""
        return pl.Series(name, [self.to_table(value) for value in values], self.kind, strict=False)


def _column_formats(encoders: Encoders, placement: Placement) -> dict[str, ColumnFormat]:
    """The formats of the columns of a placement's features."""
    schema = encoders.schema
    return {
        schema.column(name): ColumnFormat(feature.dtype(encoders.fitted.get(name)), feature.to_table)
        for name, feature in schema.columns(placement).items()
    }


def _candidate_columns(results: Sequence[RankingResult], encoders: Encoders) -> dict[str, pl.Series]:
    """The columns that came with the candidates."""
    values = results[0].manifest.request_columns.values
    formats = _column_formats(encoders, "cross") | {c: ColumnFormat(pl.Float64) for c in values}
    given = [columns for result in results for columns in _given_columns(result)]
    return {
        name: form.series(name, [columns.get(name) for columns in given]) for name, form in formats.items()
    }


def _given_columns(result: RankingResult) -> list[dict[str, Any]]:
    """By ranked candidate, the columns that the request gives."""
    known = set(result.encoded.ids)
    given = result.request.candidates or result.encoded.ids
    columns = [c if isinstance(c, dict) else {"id": c} for c in given]
    return [c for c in columns if c["id"] in known]


def find_levels(result: RankingResult) -> list[str]:
    """The level that each candidate reached: (n,). Exposure is not among them, since the service cannot see it."""
    levels = result.manifest.data.levels
    found = np.zeros(len(result.encoded.ids), dtype=np.int64)
    for n, stage in enumerate(result.manifest.stages[: len(result.cuts)]):
        cut = result.cuts[n]
        level = levels.index(stage.cuts[-1]) if stage.cuts else n
        found[cut.alive] = level
        found[cut.alive[cut.kept]] = level + 1
    return [levels[min(level, max(len(levels) - 2, 0))] for level in found.tolist()]


def _score_columns(results: Sequence[RankingResult]) -> dict[str, pl.Series]:
    """By stage `score_STAGE`, null for a candidate that the stage did not score."""
    found = {}
    for stage in results[0].manifest.stages:
        values = []
        for result in results:
            values.append(np.full(len(result.encoded.ids), np.nan))
            for cut in result.cuts:
                if cut.stage == stage.name:
                    values[-1][cut.alive] = cut.score
        name = f"score_{stage.name}"
        found[name] = pl.Series(name, np.concatenate(values), nan_to_null=True)
    return found
