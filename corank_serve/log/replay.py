"""Logged requests through the version that answered them: how far the scores are from the served ones.

Letters: n candidates.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle
from corank.bundle.signatures import TrustedKeys
from corank.bundle.stage_facts import TOLERANCE
from corank.core.errors import DataError, RequestError
from corank.core.objects import Location
from corank.core.reports import Report
from corank.evaluation.agreement import Agreement, gaps
from corank.funnel.exploration import Draw
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.log.log_format import EXPLORED, ITEMS_ID, REQUEST, SERVED, VERSION, propensity_column
from corank_serve.store.base import Store
from corank_serve.store.fetch import fetch_bundle, restore
from corank_serve.store.journal import read_journal
from corank_serve.store.live_version import StoreState

FunnelOf = Callable[[str, int, str | None], Funnel | None]
"""Model version, number and id of a change of its items (None: whichever) → the funnel, None if it is gone."""


@dataclass
class Replay:
    """How many served requests were computed again, and how far their scores differ."""

    requests: int = 0
    candidates: int = 0
    differ: int = 0
    """Candidates with a score, or a propensity, that is off by more than the tolerance, or that only one side has."""
    skipped: int = 0
    """Requests whose version is gone."""
    agreement: Agreement = field(default_factory=Agreement)
    """Of scores and propensities."""

    @property
    def document(self) -> dict[str, Any]:
        """As printed by `corank replay --json`."""
        counts = {name: getattr(self, name) for name in ("requests", "candidates", "differ", "skipped")}
        return {
            "rows": self.agreement.rows,
            **counts,
            "largest": self.agreement.largest,
            "tolerance": TOLERANCE,
        }


def replay_log(served: Iterable[Path], funnel_of: FunnelOf, report: Report = lambda line: None) -> Replay:
    """Compute the scores of logged requests again.

    Args:
        served: files of a request log.
        funnel_of: finds the funnel that answered.
        report: receives a line per file.

    Raises DataError.
    """
    result = Replay()
    funnels: dict[tuple[str, int, str | None], Funnel | None] = {}
    for path in served:
        frame = _read(path)
        for (_, model, seq, id_), rows in frame.group_by(SERVED, *VERSION, maintain_order=True):
            key = (str(model), int(seq), id_)
            if key not in funnels:
                funnels = {key: funnel_of(*key)}  # one at a time is enough: versions come in order
            funnel = funnels[key]
            if funnel is None:
                result.skipped += 1
                continue
            try:
                _compare(result, funnel, rows)
            except RequestError as error:
                report(f"{path.name}: a request was served and is refused now: {error}")
                result.requests += 1
                result.candidates += len(rows)
                result.differ += len(rows)
        report(
            f"{path.name}: {result.requests:,} requests, largest difference {result.agreement.largest:.2g}"
        )
    return result


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if ITEMS_ID not in frame.columns:  # of an earlier release
        frame = frame.with_columns(pl.lit(None, pl.String).alias(ITEMS_ID))
    absent = [c for c in (SERVED, REQUEST, *VERSION) if c not in frame.columns]
    if absent:
        raise DataError(
            f"{path}: has no column {', '.join(absent)}; `corank serve --log` writes what is replayed"
        )
    return frame


def _compare(result: Replay, funnel: Funnel, rows: pl.DataFrame) -> None:
    """Add one request to the result. Stages that did not finish when it was served are left out, and then its draw.

    Raises RequestError if the log does not hold the request, or it is refused.
    """
    try:
        request = Request.parse(msgspec.json.decode(str(rows[REQUEST].drop_nulls().first())))
        drawn = rows[EXPLORED][0] if EXPLORED in rows.columns else None
        draw = None if drawn is None else Draw.parse(drawn)
    except (msgspec.DecodeError, ValueError) as error:
        raise RequestError(f"{REQUEST}: {error}") from None
    ranking = funnel.run(request, math.inf, draw)  # one that has yet to arrive is never late
    row_of = {id_: n for n, id_ in enumerate(rows[funnel.manifest.item].to_list())}
    row = np.array([row_of.get(id_, len(rows)) for id_ in ranking.candidates], dtype=np.int64)
    differs = np.ones(len(rows) + 1, dtype=bool)  # the last row is for candidates that are not in the log
    differs[row] = False
    found = [(cut.stage, "score", f"score_{cut.stage}", cut.alive, cut.score) for cut in ranking.cuts]
    if ranking.drawn is not None:
        everyone = np.arange(len(ranking.candidates))
        drawn_by = propensity_column(funnel.manifest), everyone, ranking.drawn.propensity
        found.append(("", "propensity", *drawn_by))
    for stage, metric, name, alive, values in found:
        served, computed = np.full((2, len(rows) + 1), np.nan)
        if name in rows.columns:
            served[:-1] = rows[name].to_numpy()
        if np.isnan(served).all():
            break  # it did not finish, so nothing follows
        computed[row[alive]] = values
        apart = gaps(computed, served)
        differs |= apart > TOLERANCE
        scored = ~(np.isnan(served) & np.isnan(computed))
        result.agreement.add(stage, metric, apart[scored], TOLERANCE, rows[SERVED][0])
    result.requests += 1
    result.candidates += len(rows)
    result.differ += int(differs[:-1].sum())


def bundle_funnels(location: Location, trust: TrustedKeys | None = None) -> FunnelOf:
    """Find funnels in a bundle, which holds one. Raises BundleError, TrustError, StorageError."""
    funnel = Funnel(Bundle.open(location, trust=trust))
    version = (funnel.manifest.model_version, funnel.manifest.items_seq)
    items_id = funnel.manifest.items_id
    return lambda model, seq, id_: funnel if (model, seq) == version and id_ in (None, items_id) else None


def store_funnels(store: Store, cache: Path, trust: TrustedKeys | None = None) -> FunnelOf:
    """Find funnels in a store, after any change that its journal still has; bundles are fetched into `cache`.

    With trusted keys, versions must be signed and upserted items are left out, as the service does.
    """
    bundles: dict[str, Funnel] = {}

    def find(model: str, seq: int, id_: str | None) -> Funnel | None:
        nonlocal bundles
        _, state = StoreState.read(store)
        for _, change in read_journal(store, seq - 1, seq):
            # a bundle that was served by itself has the id of its version
            own = not change.items and change.version.endswith(f"-{id_}")
            if id_ not in (None, change.id) and not own:
                return None  # the store lost the change, and counted on
            version = _find_version(state, change.version, model, seq)
            if version is not None:
                if version not in bundles:
                    bundles = {version: Funnel(fetch_bundle(store, version, cache, trust=trust))}
                if trust is not None:
                    return bundles[version].with_changes(seq, version.rpartition("-")[2])
                return restore(store, version, bundles[version], seq)
        return None

    return find


def _find_version(state: StoreState, live: str, model: str, seq: int) -> str | None:
    """The version of a model that can be restored at a change: the live one, or one served with it."""
    for name in (live, *state.versions):
        facts = state.versions.get(name)
        if facts is None or facts.model_version != model or not state.journal_covers(facts):
            continue
        if name == live or (facts.base or 0) <= seq:
            return name
    return None
