"""LightGBM on the features as one table."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from benchmarks.peers.foreign.rows import FLAT, LABEL, Rows

MOST_TREES, PATIENCE = 3_000, 60
"""Validation stops a training."""


def fit(rows: Rows, model: str, settings: dict[str, Any], seed: int, scratch: Path) -> dict[str, Any]:
    """Train once, and score validation and test: (N,) each."""
    parts = {name: rows.split(name) for name in ("train", "valid", "test")}
    every = {
        "objective": "binary",
        "metric": "auc",
        "min_data_in_leaf": 50,
        "feature_fraction": 0.3,
        "seed": seed,
        "num_threads": 1,
        "verbosity": -1,
    }
    train, valid = (
        lightgbm.Dataset(
            parts[name][FLAT], parts[name][LABEL], categorical_feature=rows.categorical, free_raw_data=False
        )
        for name in ("train", "valid")
    )
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    booster = lightgbm.train(every | settings, train, MOST_TREES, valid_sets=[valid], callbacks=[stop])
    return {name: np.asarray(booster.predict(parts[name][FLAT])) for name in ("valid", "test")}
