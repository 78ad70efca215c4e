"""Served requests → a log, in the form that packing reads: a row a candidate, with the level it reached and its scores.

Labels join it later. `request`, as JSON, and the version that answered are there for `corank replay`, which computes
the scores anew.
"""

import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from corank.encode import Encoders
from corank.errors import CorankError
from corank.features import IdsFeature
from corank.funnel import Funnel
from corank.ranked import Ranked
from corank.schema import Placement
from corank.vocabulary import Hash, Vocabulary

ROWS, SECONDS = 200_000, 60.0
"""A file is written once there are so many rows, or so much time has passed."""
SERVED = "served_id"
"""A request's, each time it is served."""
VERSION = ("model_version", "items_seq")


class Served:
    """Writes `served-*.parquet` into a folder. Safe to share between threads."""

    def __init__(self, folder: Path, share: float = 1.0) -> None:
        """`share`: of requests that are logged, evenly. Raises CorankError where the folder cannot be made."""
        self.folder, self.share = folder, share
        self._due, self._rows, self._since = 0.0, 0, time.monotonic()
        self._lock = threading.Lock()
        self._pending: list[tuple[Funnel, Ranked]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorankError(f"{folder}: served requests cannot be logged there: {error}") from None

    def add(self, funnel: Funnel, ranked: Ranked) -> None:
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
        partial = path.with_suffix(".partial")
        try:
            frame = pl.concat([rows(ranked, funnel.receiver.encoders) for funnel, ranked in pending])
            frame.write_parquet(partial)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CorankError(f"{path}: {len(pending):,} served requests are not logged: {error}") from None
        return path


def rows(ranked: Ranked, encoders: Encoders) -> pl.DataFrame:
    """A row a candidate."""
    data, received, request = ranked.manifest.data, ranked.received, ranked.request
    n = len(received.ids)
    one: dict[str, tuple[Any, Any]] = {
        data.time: (datetime.fromtimestamp(received.time / 1000, UTC), pl.Datetime("ms", "UTC")),
        data.user: (request.user.get("id"), _id_type(request.user.get("id"))),
        **_given(encoders, "query", request.user | request.context, data.user),
        SERVED: (uuid.uuid4().hex, pl.String),
        "request": (msgspec.json.encode(request.model_dump()).decode(), pl.String),
        "model_version": (ranked.manifest.model_version, pl.String),
        "items_seq": (ranked.manifest.items_seq, pl.Int64),
    }
    one = {c: (uuid.uuid4().hex, pl.String) for c in data.request if c not in one} | one
    columns = {name: pl.Series(name, [value] * n, dtype=kind) for name, (value, kind) in one.items()}
    columns[data.item] = pl.Series(data.item, received.ids, dtype=_id_type(received.ids[0] if n else 0))
    columns |= _pairs(ranked, encoders)
    level = data.level or "level"
    columns[level] = pl.Series(level, levels(ranked), dtype=pl.String)
    return pl.DataFrame(columns | _scores(ranked))


def _id_type(value: Any) -> Any:
    return pl.String if isinstance(value, str) else pl.Int64


def _types(encoders: Encoders, placement: Placement) -> dict[str, Any]:
    """The columns of a placement's features, and of what type their values are."""
    schema, found = encoders.schema, {}
    for name in schema.columns(placement):
        encoder, feature = encoders.fitted[name], schema.features[name]
        kind: Any = pl.Float64
        if isinstance(encoder, Vocabulary):
            kind = encoder.values.dtype
        elif isinstance(encoder, Hash):
            kind = pl.String if encoder.text else pl.Int64
        if isinstance(feature, IdsFeature):
            kind = pl.String if feature.separator else pl.List(kind)
        found[schema.column(name)] = kind
    return found


def _given(
    encoders: Encoders, placement: Placement, values: dict[str, Any], user: str
) -> dict[str, tuple[Any, Any]]:
    kinds = _types(encoders, placement)
    return {name: (_text(values.get(name), kind), kind) for name, kind in kinds.items() if name != user}


def _text(value: Any, kind: Any) -> Any:
    """A request may give as a list what tables spell as one text; only the request has it as it was."""
    return None if kind == pl.String and not isinstance(value, str) else value


def _pairs(ranked: Ranked, encoders: Encoders) -> dict[str, pl.Series]:
    """What came with the candidates."""
    data, known = ranked.manifest.data, set(ranked.received.ids)
    kinds = _types(encoders, "cross") | dict.fromkeys(data.columns, pl.Float64)
    given = ranked.request.candidates or ranked.received.ids
    described = [c if isinstance(c, dict) else {"id": c} for c in given]
    found = [c for c in described if c["id"] in known]
    return {
        name: pl.Series(name, [_text(c.get(name), kind) for c in found], dtype=kind, strict=False)
        for name, kind in kinds.items()
    }


def levels(ranked: Ranked) -> list[str]:
    """The level that each candidate reached, but for the exposed one, of which only the page knows: (n,)."""
    known = ranked.manifest.data.levels
    found = np.zeros(len(ranked.received.ids), dtype=np.int64)
    for n, stage in enumerate(ranked.manifest.stages[: len(ranked.cuts)]):
        cut = ranked.cuts[n]
        here = known.index(stage.cuts[-1]) if stage.cuts else n
        found[cut.order[cut.kept :]] = here
        found[cut.order[: cut.kept]] = here + 1
    return [known[min(level, max(len(known) - 2, 0))] for level in found.tolist()]


def _scores(ranked: Ranked) -> dict[str, pl.Series]:
    """By stage, `score_STAGE`, null for one that a stage never saw."""
    found = {}
    for stage in ranked.manifest.stages:
        values = np.full(len(ranked.received.ids), np.nan)
        for cut in ranked.cuts:
            if cut.stage == stage.name:
                values[cut.order] = cut.score
        name = f"score_{stage.name}"
        found[name] = pl.Series(name, values, nan_to_null=True)
    return found
