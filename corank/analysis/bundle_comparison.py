"""Two bundles compared on the same logged requests, as their funnels score them, by the measures of runs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from corank.analysis.comparison import Margins, join_document
from corank.analysis.scored_log import ScoredLog
from corank.bundle.manifest import BundleManifest, load_manifest
from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.time import NEVER, format_time
from corank.engine.base import open_engine
from corank.features.log_schema import (
    TIME,
)
from corank.funnel.predict import predict_log

_SAME = ("request", "user", "item", "time", "timezone", "level", "levels", "weight", "propensity")
"""Settings of the log that two bundles must share."""


def compare_bundles(
    a: Location,
    b: Location,
    log: str,
    users: str | None,
    events: Mapping[str, str],
    margins: Margins,
    progress: Progress,
) -> dict[str, Any]:
    """Compare two bundles on the candidates of a log, whichever stage would have cut them.

    Args:
        a: a bundle.
        b: another; its features and stages may differ.
        log: the table of candidates, as the user named it.
        users: the table of users, if one of them reads it.
        events: by name of `data.events`, the tables of events.
        margins: differences that count.
        progress: receives how many candidates are scored, and of how many, of each bundle.

    Returns the document of `corank compare --json`, as for runs. A candidate whose item one of them does not know is
    left out of both, and counted as `unknown`; so is one from before a snapshot of either, whose priors count its
    label, and counted as `earlier`. Raises BundleError, DataError.
    """
    require_same_log(a, load_manifest(a), b, load_manifest(b))
    scored = []
    with TemporaryDirectory() as name, open_engine() as engine:
        for side, place in (("a", a), ("b", b)):
            folder = Path(name) / side
            # older rows are events of histories, and are not compared
            predict_log(place, log, users, folder, engine, progress, events, facts=True, as_served=True)
            scored.append(ScoredLog.read(load_manifest(place), folder))
    one, other = scored
    predicted = ({n for stage in side.manifest.stages for n in stage.labels} for side in scored)
    if not one.has_label(set.intersection(*predicted)):
        raise DataError(
            f"{log}: has no column of a label that both bundles predict, so no metric can be compared"
        )
    theirs = one.rows.select(one.keys).join(other.rows, on=one.keys, maintain_order="left")
    if len(theirs) != len(one.rows) or len(theirs) != len(other.rows):
        raise DataError(f"{log}: changed while it was read: the bundles were given other rows; try again")
    since = max([NEVER, *one.manifest.priors.values(), *other.manifest.priors.values()])
    earlier = one.rows[TIME] < since
    if earlier.all():
        raise DataError(
            f"{log}: all rows are from before {format_time(since)}, until when a bundle counts their labels among its "
            "priors; name a later log, or compare the runs, which know priors at any time"
        )
    known = one.known() & replace(other, rows=theirs).known()
    both = known & ~earlier
    if not both.any():
        raise DataError(f"{a}, {b}: there is no candidate of {log} that both bundles know")
    measured = one.measure(one.rows.filter(both)), other.measure(theirs.filter(both))
    left_out = {"unknown": int((~known & ~earlier).sum()), "earlier": int(earlier.sum())}
    requests = one.rows.filter(both).select(pl.struct(one.keys[:-1]).rle_id()).to_series().n_unique()
    counts = {"requests": requests, "candidates": int(both.sum())}
    facts = {"log": log, "a": str(a), "b": str(b)} | left_out | counts
    return join_document(facts, *measured, margins)


def require_same_log(a: Location, one: BundleManifest, b: Location, other: BundleManifest) -> None:
    """Raise DataError if the bundles read the same columns of a log in different ways."""
    settings = [(f"data.{name}", getattr(one.data, name), getattr(other.data, name)) for name in _SAME]
    for name, label in one.data.labels.items():
        settings.append((f"data.labels.{name}", label, other.data.labels.get(name, label)))
    for key, ours, theirs in settings:
        if ours != theirs:
            raise DataError(f"{b}: its {key} is {theirs!r}, that of {a} {ours!r}; compare bundles of one log")
