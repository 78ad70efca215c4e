"""Encoders fitted to a column of a test."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import polars as pl

from corank.features.training_values import Measurement, NotMeasured, TrainingValues

T = TypeVar("T")


def fit_series(fit: Callable[[TrainingValues], T], values: pl.Series) -> T:
    """Call `fit` with the training values of a column."""
    measured: dict[Measurement, pl.DataFrame] = {}
    while True:
        try:
            return fit(TrainingValues("x", measured))
        except NotMeasured as needed:
            wanted = needed.missing
            part = wanted.part(values, np.arange(len(values)))
            measured[wanted] = wanted.measure.finish(wanted.measure.merge(part))
