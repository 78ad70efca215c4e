"""Served requests → a log, in the form that packing reads: a row a candidate, with the level it reached and its scores.

Labels join it later. The request, as JSON, and the version that answered are there for `corank replay`, which computes
the scores anew.
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

ROWS, SECONDS = 200_000, 60.0
"""A file is written once there are so many rows, or so much time has passed."""
SERVED, REQUEST = "served_id", "served_request"
"""A request's, each time it is served; and what was asked, with the time and the candidates that it had."""
VERSION = ("model_version", "items_seq")


class RequestLog:
    """Writes `served-*.parquet` into a folder. Safe to share between threads."""

    def __init__(self, folder: Path, share: float = 1.0) -> None:
        """`share`: of requests that are logged, evenly. Raises CorankError where the folder cannot be made."""
        self.folder, self.share = folder, share
        self._due, self._rows, self._since = 0.0, 0, time.monotonic()
        self._lock = threading.Lock()
        self._pending: list[tuple[Funnel, RankingResult]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorankError(f"{folder}: served requests cannot be logged there: {error}") from None

    def add(self, funnel: Funnel, ranked: RankingResult) -> None:
        """Keep a request for the next file."""
        self._due += self.share
        if self._due >= 1:
            self._due -= 1
            with self._lock:
                self._pending.append((funnel, ranked))
                self._rows += len(ranked.received.ids)

    def full(self) -> bool:
        """Whether a file is due."""
        return self._rows >= ROWS or (self._rows > 0 and time.monotonic() - self._since >= SECONDS)

    def write(self) -> Path | None:
        """Write what was kept. Raises CorankError where the disk refuses; what was kept is lost then."""
        with self._lock:
            pending, self._pending, self._rows = self._pending, [], 0
            self._since = time.monotonic()
        if not pending:
            return None
        path = self.folder / f"served-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
        try:
            by_model = groupby(pending, key=lambda one: id(one[0].request_encoder.encoders))
            same = [list(some) for _, some in by_model]
            frames = [rows([one for _, one in some], some[0][0].request_encoder.encoders) for some in same]
            # models may differ in their columns
            with atomic_file(path) as partial:
                pl.concat(frames, how="diagonal_relaxed").write_parquet(partial)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise CorankError(f"{path}: {len(pending):,} served requests are not logged: {error}") from None
        return path


def rows(served: Sequence[RankingResult], encoders: Encoders) -> pl.DataFrame:
    """A row a candidate, of requests that one model answered."""
    data, query = served[0].manifest.data, _spelt(encoders, "query")
    given = [ranked.request.user | ranked.request.context for ranked in served]
    one = {
        name: spelt.series(name, [columns.get(name) for columns in given]) for name, spelt in query.items()
    }
    users = [ranked.request.user.get("id") for ranked in served]
    one[data.user] = query.get(data.user, ColumnFormat()).series(data.user, users)
    times = pl.Series(data.time, [ranked.received.time for ranked in served], pl.Int64)
    one[data.time] = times.cast(pl.Datetime("ms", "UTC"))
    one |= {name: _unique(name, len(served)) for name in [*data.request, SERVED] if name not in one}
    one[REQUEST] = pl.Series(REQUEST, [_asked(ranked) for ranked in served])
    one |= {name: pl.Series(name, [getattr(ranked.manifest, name) for ranked in served]) for name in VERSION}
    each = np.repeat(np.arange(len(served)), [len(ranked.received.ids) for ranked in served])
    columns = {name: values.gather(each) for name, values in one.items()}
    ids = [id_ for ranked in served for id_ in ranked.received.ids]
    columns[data.item] = pl.Series(
        data.item, ids, served[0].received.items.layers[0].records.ids.values.dtype
    )
    columns |= _pairs(served, encoders)
    level = data.level or "level"
    columns[level] = pl.Series(level, [one for ranked in served for one in levels(ranked)], pl.String)
    return pl.DataFrame(columns | _scores(served))


def _unique(name: str, n: int) -> pl.Series:
    return pl.Series(name, [uuid.uuid4().hex for _ in range(n)])


def _asked(ranked: RankingResult) -> str:
    """As JSON, with what it did not say itself."""
    received, request = ranked.received, ranked.request
    asked = request.model_dump(exclude={"retrieve", "where"})
    asked |= {"time": received.time, "candidates": request.candidates or received.ids}
    return msgspec.json.encode(asked).decode()


@dataclass(frozen=True)
class ColumnFormat:
    """How tables spell a column."""

    kind: Any = None
    """None for one whose values have no type of their own."""
    to_table: Callable[[Any], Any] = lambda value: value
    """Writes a request's value as tables do."""

    def series(self, name: str, values: list[Any]) -> pl.Series:
        """Of values as requests have them."""
        return pl.Series(name, [self.to_table(value) for value in values], self.kind, strict=False)


def _spelt(encoders: Encoders, placement: Placement) -> dict[str, ColumnFormat]:
    """The columns of a placement's features."""
    schema = encoders.schema
    return {
        schema.column(name): ColumnFormat(feature.dtype(encoders.fitted.get(name)), feature.to_table)
        for name, feature in schema.columns(placement).items()
    }


def _pairs(served: Sequence[RankingResult], encoders: Encoders) -> dict[str, pl.Series]:
    """What came with the candidates."""
    spelt = _spelt(encoders, "cross") | {
        c: ColumnFormat(pl.Float64) for c in served[0].manifest.request_columns.values
    }
    given = [columns for ranked in served for columns in _given(ranked)]
    return {name: one.series(name, [columns.get(name) for columns in given]) for name, one in spelt.items()}


def _given(ranked: RankingResult) -> list[dict[str, Any]]:
    """By candidate, what the request says of it."""
    known = set(ranked.received.ids)
    given = ranked.request.candidates or ranked.received.ids
    described = [c if isinstance(c, dict) else {"id": c} for c in given]
    return [c for c in described if c["id"] in known]


def levels(ranked: RankingResult) -> list[str]:
    """The level that each candidate reached, but for the exposed one, of which only the page knows: (n,)."""
    known = ranked.manifest.data.levels
    found = np.zeros(len(ranked.received.ids), dtype=np.int64)
    for n, stage in enumerate(ranked.manifest.stages[: len(ranked.cuts)]):
        cut = ranked.cuts[n]
        here = known.index(stage.cuts[-1]) if stage.cuts else n
        found[cut.alive] = here
        found[cut.alive[cut.kept]] = here + 1
    return [known[min(level, max(len(known) - 2, 0))] for level in found.tolist()]


def _scores(served: Sequence[RankingResult]) -> dict[str, pl.Series]:
    """By stage, `score_STAGE`, null for one that a stage never saw."""
    found = {}
    for stage in served[0].manifest.stages:
        values = []
        for ranked in served:
            values.append(np.full(len(ranked.received.ids), np.nan))
            for cut in ranked.cuts:
                if cut.stage == stage.name:
                    values[-1][cut.alive] = cut.score
        name = f"score_{stage.name}"
        found[name] = pl.Series(name, np.concatenate(values), nan_to_null=True)
    return found
