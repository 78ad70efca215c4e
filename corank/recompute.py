"""`corank replay`: logged requests through the version that answered them, and how far the scores are from the served.

Letters: n candidates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from corank.asked import Request
from corank.bundle import Bundle
from corank.errors import DataError
from corank.fetch import as_of, fetched
from corank.funnel import Funnel
from corank.head import Head
from corank.served import SERVED, VERSION
from corank.stores import Store

TOLERANCE = 1e-5
"""Of a score: docs/bundle.md#parity."""

Report = Callable[[str], object]
FunnelOf = Callable[[str, int], Funnel | None]
"""Of a model version and a change of its items, None where it is gone."""


@dataclass
class Difference:
    """What a replay found."""

    requests: int = 0
    candidates: int = 0
    differ: int = 0
    """Candidates with a score that is further off than the tolerance, or that one side never scored."""
    largest: float = 0.0
    skipped: int = 0
    """Requests whose version is gone."""


def replay(served: Iterable[Path], funnel_of: FunnelOf, report: Report = lambda line: None) -> Difference:
    """Compute the scores of logged requests anew. Raises DataError, RequestError."""
    found = Difference()
    funnels: dict[tuple[str, int], Funnel | None] = {}
    for path in served:
        frame = _read(path)
        for (_, request, *version), rows in frame.group_by(SERVED, "request", *VERSION, maintain_order=True):
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
    absent = [c for c in (SERVED, "request", *VERSION) if c not in frame.columns]
    if absent:
        raise DataError(
            f"{path}: has no column {', '.join(absent)}; `corank serve --log` writes what is replayed"
        )
    return frame


def _compare(found: Difference, funnel: Funnel, request: str, rows: pl.DataFrame) -> None:
    """By stage, so far as the service came: a stage that was late there is left out here."""
    asked = Request.parse(msgspec.json.decode(request))
    ranked = funnel.ranked(asked)
    found.requests += 1
    found.candidates += len(rows)
    off = np.zeros(len(rows), dtype=bool)
    for cut in ranked.cuts:
        served = rows[f"score_{cut.stage}"].to_numpy()
        if np.isnan(served).all():
            continue
        ours = np.full(len(served), np.nan)
        ours[cut.order] = cut.score
        both = np.isfinite(served) & np.isfinite(ours)
        off |= np.isfinite(served) != np.isfinite(ours)
        gap = np.abs(served - ours)
        off[both] |= gap[both] > TOLERANCE
        found.largest = max(found.largest, float(gap[both].max(initial=0)))
    found.differ += int(off.sum())


def of_bundle(path: Path) -> FunnelOf:
    """Those that a bundle's folder holds now: one."""
    funnel = Funnel(Bundle.open(path))
    held = (funnel.manifest.model_version, funnel.manifest.items_seq)
    return lambda model, seq: funnel if (model, seq) == held else None


def of_store(store: Store, cache: Path) -> FunnelOf:
    """Those of a store, after any change that its journal still tells."""

    def funnel_of(model: str, seq: int) -> Funnel | None:
        _, head = Head.read(store)
        for version, facts in head.versions.items():
            if facts.model_version == model and seq >= head.journal_from - 1:
                return as_of(store, version, Funnel(fetched(store, version, cache)), seq)
        return None

    return funnel_of


def plain(found: Difference) -> dict[str, Any]:
    return vars(found) | {"tolerance": TOLERANCE}
