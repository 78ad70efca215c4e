"""A log as a bundle's funnel scores it, measured as a run is on a split.

Letters: C candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.manifest import BundleManifest
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.data.log_rows import request_columns
from corank.evaluation.predictions import Calibrators, Predictions
from corank.evaluation.rows import Row
from corank.evaluation.table import Figure, count_rows, measure, rate_rows, reasons_of, subjects_of
from corank.features.log_schema import (
    ITEM,
    LEVEL,
    PROPENSITY,
    TIME,
    USER,
    WEIGHT,
    hide_young,
    label_column,
    value_column,
)

SPLIT = "rows"
"""What the rows of a table are called where a run has a split."""


@dataclass(frozen=True)
class ScoredLog:
    """A log as a bundle scores it."""

    manifest: BundleManifest
    rows: pl.DataFrame
    """A candidate each, a request's together: what `corank.funnel.predict` writes as `facts`, and logits,
    NaN of candidates that the bundle does not know: (C,)."""

    @classmethod
    def read(cls, manifest: BundleManifest, folder: Path) -> Self:
        """Read the files of a folder that `predict_log` wrote."""
        return cls(manifest, pl.read_parquet(sorted(folder.glob("*.parquet"))))

    @property
    def keys(self) -> list[str]:
        """The columns that identify a candidate."""
        return [*request_columns(self.manifest.data).values(), ITEM]

    @cached_property
    def calibrators(self) -> Calibrators:
        """Those of each stage."""
        return {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in self.manifest.stages
        }

    def known(self) -> pl.Series:
        """Whether the bundle scores each candidate: (C,) bool."""
        return self.rows.select(
            pl.all_horizontal(pl.col("^logit\\..*$").is_finite().fill_null(False))
        ).to_series()

    def has_label(self, names: set[str]) -> bool:
        """Whether the log has a column of one of some labels."""
        return any(label_column(name) in self.rows.columns for name in names)

    def measure(self, rows: pl.DataFrame) -> list[Figure]:
        """Measure the bundle on some of its rows as a run is on a split. Raises DataError."""
        stages, levels = self.manifest.stages, self.manifest.data.levels
        return measure(subjects_of(self._predictions(rows), stages, levels, self.calibrators, {}))

    def evaluate(self, run: str, on: str, bootstrap: bool) -> dict[str, Any]:
        """The document of `corank evaluate --json` on all rows of items that the bundle knows.

        Args:
            run: the name of what was exported as the bundle.
            on: the name of the table.
            bootstrap: whether the rows have intervals.

        Raises DataError if there is no label, or no item is known.
        """
        stages, known = self.manifest.stages, self.known()
        labels = {label for stage in stages for label in stage.labels}
        if not self.has_label(labels):
            raise DataError(
                f"{on}: has no column of a label that the run predicts ({', '.join(sorted(labels))}), so nothing can "
                "be measured; `corank predict` needs none"
            )
        if not known.any():
            raise DataError(f"{on}: the run knows none of its items")
        rows = self.rows.filter(known)
        predictions, figures = self._predictions(rows), self.measure(rows)

        def table() -> Iterator[Row]:
            yield from count_rows(predictions, run, SPLIT)
            yield from (figure.row(run, SPLIT, bootstrap) for figure in figures)
            yield from rate_rows(predictions, stages, self.calibrators, run, SPLIT)

        names = [stage.name for stage in stages]
        facts = {"folder": run, "split": SPLIT, "stages": names, "on": on, "unknown": int((~known).sum())}
        reasons = reasons_of(figures)
        return {"rows": [*table()], "run": facts} | ({"reasons": reasons} if reasons else {})

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
