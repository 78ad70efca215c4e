"""Gradient boosting on imported KuaiRand-Pure: a model of single rows with the same features and split.

`basic` sees all user and video features, tab and hour. `prior` also sees rates of clicks and long views by user, video
and author over the days before the row's day. Both predict is_click. Learning rate and number of leaves are swept on
validation.
"""

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks import harness
from corank.core.errors import DataError
from corank.features.split import SPLITS, SplitColumns
from corank.metrics.point import auc, gauc
from corank.training.config.config_file import read

Numbers = NDArray[np.number]
LABEL, RATED = "is_click", ("is_click", "long_view")
PRIOR_KEYS = ("user_id", "video_id", "author_id")
SMOOTHING = 10
"""Impressions of the overall rate that are added to a key's own."""
MOST_CODES = 32
"""Columns of at most so many values are native categoricals: with more, splits by order do better on validation."""
SWEEP = tuple(product((0.04, 0.08), (15, 31)))
"""Learning rates and leaves a tree; early stopping chooses the number of trees."""


@dataclass(frozen=True)
class Scores:
    """Figures of the test days, and the predictions behind them for paired comparisons."""

    auc: float
    gauc: float
    """Per user, weighted by impressions."""
    predictions: pl.DataFrame
    """A row per test candidate: user_id, video_id, time, is_click, score."""


def reference(folder: Path, priors: bool, seed: int) -> Scores:
    """Fit on the training days of an imported KuaiRand, tune on the validation days, judge on the test days."""
    data = read(folder / "config.yaml").data
    log = pl.read_parquet(folder / "log.parquet").sort("time")
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    rows = log.join(users, "user_id", how="left", maintain_order="left")
    rows = rows.join(items, "video_id", how="left", maintain_order="left")
    columns = SplitColumns(pl.col("time").dt.epoch("ms"), pl.col(data.user), None)
    parts = rows.select(**data.select_splits(columns))
    fit, valid, test = (parts[name].to_numpy() for name in SPLITS)

    features, categorical = _basic(rows, [*users.columns, *items.columns, "tab", "hour"])
    if priors:
        day = rows["time"].dt.convert_time_zone(data.timezone).dt.date()
        usual = {label: float(np.mean(rows[label].to_numpy()[fit])) for label in RATED}
        lagged = pl.concat(
            [_rates(rows.with_columns(day=day), key, usual) for key in PRIOR_KEYS], how="horizontal"
        )
        features, categorical = features.hstack(lagged), categorical + [False] * lagged.width
    X_NF, y_N = features.cast(pl.Float64).fill_null(np.nan).to_numpy(), rows[LABEL].to_numpy()

    score = _tuned(X_NF[fit], y_N[fit], X_NF[valid], y_N[valid], categorical, seed).predict_proba(X_NF[test])
    predictions = (
        rows.filter(test).select("user_id", "video_id", "time", LABEL).with_columns(score=score[:, 1])
    )
    return Scores(*_judged(predictions), predictions)


def _basic(rows: pl.DataFrame, names: list[str]) -> tuple[pl.DataFrame, list[bool]]:
    """The features as numbers, and which of them are categories; a video's tags are its first and their number."""
    tags = pl.col("tag").str.split(",")
    texts = rows.with_columns(tag=tags.list.first().cast(pl.Int64), tags=tags.list.len())
    texts = texts.select(*(name for name in names if name not in ("user_id", "video_id")), "tags")
    coded = [s.dtype == pl.String or s.n_unique() <= MOST_CODES for s in texts]
    codes = [s.rank("dense") if code else s for s, code in zip(texts, coded, strict=True)]
    return pl.DataFrame(codes), coded


def _rates(rows: pl.DataFrame, key: str, usual: dict[str, float]) -> pl.DataFrame:
    """Impressions and smoothed rates of a key on the days before each row's; rows are in order of time."""
    daily = rows.group_by(key, "day").agg(pl.len().alias("shown"), pl.col(usual).sum()).sort("day")
    before = daily.with_columns(pl.col("shown", *usual).cum_sum().over(key))
    matches = rows.select(key, "day").join_asof(
        before, on="day", by=key, allow_exact_matches=False, check_sortedness=False
    )
    shown = pl.col("shown").fill_null(0)
    rates = [
        (pl.col(label).fill_null(0) + SMOOTHING * rate) / (shown + SMOOTHING) for label, rate in usual.items()
    ]
    return matches.select(
        shown.alias(f"{key}_shown"),
        *(r.alias(f"{key}_{label}") for r, label in zip(rates, usual, strict=True)),
    )


def _tuned(
    X_NF: Numbers, y_N: Numbers, valid_X: Numbers, valid_y: Numbers, categorical: list[bool], seed: int
) -> HistGradientBoostingClassifier:
    """The model of the sweep with the best validation AUC."""
    best, best_auc = None, 0.0
    for rate, leaves in SWEEP:
        model = HistGradientBoostingClassifier(
            learning_rate=rate, max_leaf_nodes=leaves, max_iter=1000, min_samples_leaf=50, max_features=0.3,
            categorical_features=categorical, early_stopping=True, n_iter_no_change=20, random_state=seed,
        )  # fmt: skip
        model.fit(X_NF, y_N, X_val=valid_X, y_val=valid_y)
        area = roc_auc_score(valid_y, model.predict_proba(valid_X)[:, 1])
        if area > best_auc:
            best, best_auc = model, area
    assert best is not None
    return best


def _judged(predictions: pl.DataFrame) -> tuple[float, float]:
    columns = [predictions[name].to_numpy() for name in ("user_id", "score", LABEL)]
    area, grouped = auc(*columns).value(), gauc(*columns).value()
    if area is None or grouped is None:
        raise DataError("the test days hold clicks only, or none; expected both")
    return area, grouped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `corank import kuairand` wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, harness.Figure] = {}
    for name, priors in (("basic", False), ("prior", True)):
        scores = [reference(arguments.folder, priors, seed) for seed in range(arguments.seeds)]
        for metric in ("auc", "gauc"):
            values = [getattr(score, metric) for score in scores]
            figures[f"{name}_{metric}"] = fmean(values)
            figures[f"{name}_{metric}_std"] = pstdev(values)
    harness.report("references", figures, {}, arguments.json)


if __name__ == "__main__":
    main()
