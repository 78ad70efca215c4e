"""Encoders fitted to a column of a test, measured in parts."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import polars as pl

from corank.features.training_values import EarlierTally, Measurement, NotMeasured, TrainingValues

T = TypeVar("T")


def fit_series(
    fit: Callable[[TrainingValues], T],
    values: pl.Series,
    cuts: Sequence[int] = (),
    earlier: EarlierTally | None = None,
) -> T:
    """Call `fit` with the training values of a column, measured in the parts between `cuts`."""
    measured: dict[Measurement, pl.DataFrame] = {}
    bounds = [0, *cuts, len(values)]
    rows = np.arange(len(values))
    while True:
        try:
            return fit(TrainingValues("x", measured, earlier=earlier))
        except NotMeasured as needed:
            wanted = needed.missing
            parts = [wanted.part(values[a:b], rows[a:b]) for a, b in pairwise(bounds)]
            merged = wanted.measure.merge(pl.concat(parts))
            measured[wanted] = wanted.measure.finish(merged)
