"""Two bundles compared on the same logged requests, as their funnels score them, by the measures of runs.

Letters: C candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from corank.analysis.comparison import Margins, join_document
from corank.bundle.manifest import BundleManifest, load_manifest
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.time import NEVER, format_time
from corank.data.log_rows import find_truth, request_columns, truth_columns
from corank.data.tables import Table
from corank.engine.base import open_engine
from corank.evaluation.predictions import Predictions, Truth
from corank.evaluation.table import Figure, measure, subjects_of
from corank.features.log_schema import (
    ITEM,
    LEVEL,
    PROPENSITY,
    TIME,
    USER,
    WEIGHT,
    DataSettings,
    hide_young,
    label_column,
    value_column,
)
from corank.funnel.predict import predict_log

_SAME = ("request", "user", "item", "time", "timezone", "level", "levels", "weight", "propensity")
"""Settings of the log that two bundles must share."""


@dataclass(frozen=True)
class ScoredLog:
    """A log as a bundle scores it."""

    manifest: BundleManifest
    rows: pl.DataFrame
    """A candidate each, a request's together: what `corank.funnel.predict` writes as `facts`, and logits,
    NaN of candidates that the bundle does not know: (C,)."""

    @property
    def keys(self) -> list[str]:
        """The columns that identify a candidate."""
        return [*request_columns(self.manifest.data).values(), ITEM]

    def known(self) -> pl.Series:
        """Whether the bundle scores each candidate: (C,) bool."""
        return self.rows.select(
            pl.all_horizontal(pl.col("^logit\\..*$").is_finite().fill_null(False))
        ).to_series()

    def measure(self, rows: pl.DataFrame, truth: pl.DataFrame | None) -> list[Figure]:
        """Measure the bundle on some of its rows as a run is on a split. Raises DataError."""
        manifest = self.manifest
        calibrators = {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in manifest.stages
        }
        known: Truth = {} if truth is None else find_truth(rows, truth, manifest.data)
        return measure(
            subjects_of(self._predictions(rows), manifest.stages, manifest.data.levels, calibrators, known)
        )

    def _predictions(self, rows: pl.DataFrame) -> Predictions:
        """Bring rows into the form of a run's predictions; labels that the log lacks are unknown."""
        data, time = self.manifest.data, rows[TIME].to_numpy()
        request = rows.select(pl.struct(self.keys[:-1]).rle_id()).to_series().to_numpy().astype(np.int64)
        begins = np.flatnonzero(np.diff(request, prepend=-1))
        unknown = pl.Series([-1], dtype=pl.Int8).new_from_index(0, len(rows))
        labels = {
            name: rows.get_column(label_column(name), default=unknown).to_numpy() for name in data.labels
        }
        mature = hide_young(labels, time, np.full_like(time, time.max()), data)
        known = {name: value_column(name) for name in data.columns if value_column(name) in rows.columns}
        columns = {
            "size": np.diff(begins, append=len(rows)),
            "user": rows[USER].rank("dense").to_numpy().astype(np.int64)[begins],
            "time": time[begins],
            "level": rows[LEVEL].to_numpy(),
            "weight": rows[WEIGHT].to_numpy(),
            **{f"label.{name}": label for name, label in mature.items()},
            **{f"column.{name}": rows[column].to_numpy() for name, column in known.items()},
        }
        logits = {
            stage.name: {name: rows[f"logit.{stage.name}.{name}"].to_numpy() for name in stage.labels}
            for stage in self.manifest.stages
        }
        propensity = rows[PROPENSITY].to_numpy() if PROPENSITY in rows.columns else None
        return Predictions.of(data, columns, logits, propensity)


def compare_bundles(
    a: Location,
    b: Location,
    log: str,
    users: str | None,
    events: Mapping[str, str],
    truth: str | None,
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
        truth: the table of true probabilities of a simulated world.
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
            scored.append(ScoredLog(load_manifest(place), pl.read_parquet(sorted(folder.glob("*.parquet")))))
    one, other = scored
    predicted = ({n for stage in side.manifest.stages for n in stage.labels} for side in scored)
    if not any(label_column(n) in one.rows.columns for n in set.intersection(*predicted)):
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
    true = None if truth is None else _read_truth(truth, one.manifest.data)
    measured = one.measure(one.rows.filter(both), true), other.measure(theirs.filter(both), true)
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


def _read_truth(source: str, data: DataSettings) -> pl.DataFrame:
    """Read a table of true probabilities. Raises DataError if it lacks a column."""
    table = Table.scan("truth", source, Path())
    table.require([*data.request, data.item])
    return table.collect(table.frame.select(truth_columns(table, data)))
