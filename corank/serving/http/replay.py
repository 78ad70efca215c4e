"""`corank replay`: logged requests through the version that answered them, and how far the scores are from the served.

Letters: n candidates.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.bundle.bundle import Bundle
from corank.core.errors import DataError
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.http.request_log import REQUEST, SERVED, VERSION
from corank.serving.store.base import Store
from corank.serving.store.fetch import fetch_bundle, restore
from corank.serving.store.live_version import StoreState, journal

TOLERANCE = 1e-5
"""Of a score: docs/bundle.md#parity."""

FunnelOf = Callable[[str, int], Funnel | None]
"""Of a model version and a change of its items, None where it is gone."""


@dataclass
class ReplayResult:
    """What a replay found."""

    requests: int = 0
    candidates: int = 0
    differ: int = 0
    """Candidates with a score that is further off than the tolerance, or that one side never scored."""
    largest: float = 0.0
    skipped: int = 0
    """Requests whose version is gone."""


def replay(served: Iterable[Path], funnel_of: FunnelOf, report: Report = lambda line: None) -> ReplayResult:
    """Compute the scores of logged requests anew. Raises DataError, RequestError."""
    found = ReplayResult()
    funnels: dict[tuple[str, int], Funnel | None] = {}
    for path in served:
        frame = _read(path)
        for (_, request, *version), rows in frame.group_by(SERVED, REQUEST, *VERSION, maintain_order=True):
            key = (str(version[0]), int(version[1]))
            if key not in funnels:
                funnels = {key: funnel_of(*key)}  # one at a time: they come in order
            funnel = funnels[key]
            if funnel is None:
                found.skipped += 1
                continue
            _compare(found, funnel, str(request), rows)
        report(f"{path.name}: {found.requests:,} requests, largest difference {found.largest:.2g}")
    return found


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    absent = [c for c in (SERVED, REQUEST, *VERSION) if c not in frame.columns]
    if absent:
        raise DataError(
            f"{path}: has no column {', '.join(absent)}; `corank serve --log` writes what is replayed"
        )
    return frame


def _compare(found: ReplayResult, funnel: Funnel, request: str, rows: pl.DataFrame) -> None:
    """By stage, so far as the service came: a stage that was late there is left out here."""
    # what has yet to arrive is never late
    ranked = funnel.ranked(Request.parse(msgspec.json.decode(request)), arrived=math.inf)
    place = {id_: n for n, id_ in enumerate(rows[funnel.manifest.item].to_list())}
    at = np.array([place.get(id_, len(rows)) for id_ in ranked.received.ids], dtype=np.int64)
    off = np.ones(len(rows) + 1, dtype=bool)  # the last place is for all that are not in the log
    off[at] = False
    for cut in ranked.cuts:
        served, ours = _served(cut.stage, rows), np.full(len(rows) + 1, np.nan)
        if np.isnan(served).all():
            continue
        ours[at[cut.alive]] = cut.score
        gap = np.abs(served - ours)
        off |= (np.isnan(served) != np.isnan(ours)) | (gap > TOLERANCE)
        found.largest = max(found.largest, float(np.nanmax(gap, initial=0)))
    found.requests += 1
    found.candidates += len(rows)
    found.differ += int(off[:-1].sum())


def _served(stage: str, rows: pl.DataFrame) -> NDArray[np.float64]:
    """A stage's scores as they were served, NaN where there is none: (n + 1,)."""
    name = f"score_{stage}"
    values = rows[name].to_numpy() if name in rows.columns else np.full(len(rows), np.nan)
    return np.append(values.astype(np.float64), np.nan)


def of_bundle(path: Path) -> FunnelOf:
    """Those that a bundle's folder holds now: one."""
    funnel = Funnel(Bundle.open(path))
    held = (funnel.manifest.model_version, funnel.manifest.items_seq)
    return lambda model, seq: funnel if (model, seq) == held else None


def of_store(store: Store, cache: Path) -> FunnelOf:
    """Those of a store, after any change that its journal still tells."""

    bundles: dict[str, Funnel] = {}

    def funnel_of(model: str, seq: int) -> Funnel | None:
        nonlocal bundles
        _, head = StoreState.read(store)
        for _, change in journal(store, seq - 1, seq):
            version, facts = change.version, head.versions.get(change.version)
            if facts is not None and facts.model_version == model and head.tells(facts):
                if version not in bundles:
                    bundles = {version: Funnel(fetch_bundle(store, version, cache))}
                return restore(store, version, bundles[version], seq)
        return None

    return funnel_of


def plain(found: ReplayResult) -> dict[str, Any]:
    return vars(found) | {"tolerance": TOLERANCE}
