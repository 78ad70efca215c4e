"""Fits boosted trees of a binary label, and reads them as arrays.

Source: gradient boosting, Friedman, Annals of Statistics 2001, by LightGBM, Ke et al., NeurIPS 2017.

Letters: N rows · F columns · T trees · L leaves of a tree, at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.core.extras import require
from corank.core.types import Floats
from corank.models.settings.trees import MOST_CODES, BoostingSettings
from corank.models.trees import TreeArrays

ONE_CATEGORY = MappingProxyType({"max_cat_to_onehot": 2 * MOST_CODES})
"""Parameters by which a node separates one category from all others, which `read_trees` takes for granted."""


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one label, each of which is known."""

    values: Floats  # (N, F)
    label: NDArray[np.integer]  # (N,)
    weight: NDArray[np.floating]  # (N,)


def grow_trees(
    rows: LabelledRows,
    categorical: Sequence[int],
    settings: BoostingSettings,
    seed: int,
    key: str,
    more: Mapping[str, Any] = MappingProxyType({}),
    valid: LabelledRows | None = None,
    patience: int = 0,
) -> Any:
    """Fit a LightGBM booster.

    Args:
        rows: to fit.
        categorical: the columns that hold categories.
        settings: of the trees.
        seed: of what is drawn.
        key: what needs LightGBM, as an error names it.
        more: parameters of LightGBM in addition to the settings.
        valid: rows by whose cross-entropy the number of trees is chosen; all are kept if None.
        patience: trees without a better one after which no more are grown.

    Raises MissingExtraError without LightGBM.
    """
    lightgbm = require("trees", "lightgbm", key)
    parameters = {
        "objective": "binary",
        "learning_rate": settings.lr,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.min_rows,
        "feature_fraction": settings.columns,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
        **more,
    }

    def table(labelled_rows: LabelledRows, like: Any = None) -> Any:
        return lightgbm.Dataset(
            labelled_rows.values,
            labelled_rows.label,
            weight=labelled_rows.weight,
            categorical_feature=list(categorical) or "auto",
            params=parameters,
            reference=like,
        )

    data = table(rows)
    if valid is None:
        return lightgbm.train(parameters, data, settings.trees)
    stop = lightgbm.early_stopping(patience, verbose=False)
    return lightgbm.train(parameters, data, settings.trees, [table(valid, data)], callbacks=[stop])


def read_trees(booster: Any, trees: int, leaves: int) -> TreeArrays:
    """Read a booster's trees, up to the best number of them; what is left of the arrays adds nothing.

    Thresholds are rounded down to float32, which changes no comparison with a float32.
    """
    arrays = TreeArrays(
        np.zeros((trees, leaves - 1), dtype=np.int32),
        np.zeros((trees, leaves - 1), dtype=np.float32),
        np.full((trees, leaves - 1), -1, dtype=np.int32),
        np.full((trees, leaves - 1), -1, dtype=np.int32),
        np.zeros((trees, leaves), dtype=np.float32),
    )
    best = booster.best_iteration if booster.best_iteration > 0 else None
    text = booster.model_to_string(num_iteration=best)
    for n, part in enumerate(text.partition("\nend of trees")[0].split("\nTree=")[1:]):
        facts = dict(line.split("=", 1) for line in part.splitlines()[1:] if "=" in line)
        value = _numbers(facts, "leaf_value", np.float64)
        arrays.value[n, : len(value)] = value
        inner = len(value) - 1
        if inner:
            arrays.column[n, :inner] = _numbers(facts, "split_feature", np.int32)
            arrays.threshold[n, :inner] = _thresholds(facts)
            arrays.left[n, :inner] = _numbers(facts, "left_child", np.int32)
            arrays.right[n, :inner] = _numbers(facts, "right_child", np.int32)
    return arrays


def _numbers(facts: dict[str, str], name: str, dtype: Any) -> NDArray[Any]:
    return np.array(facts[name].split(), dtype=dtype)


def _thresholds(facts: dict[str, str]) -> Floats:
    """The bound of each inner node, or the category that goes left."""
    exact = _numbers(facts, "threshold", np.float64)
    categorical = _numbers(facts, "decision_type", np.int32) & 1 == 1
    if categorical.any():
        start, bits = _numbers(facts, "cat_boundaries", np.int64), _numbers(facts, "cat_threshold", np.uint64)
        exact[categorical] = [
            _only_bit(bits[start[n] : start[n + 1]]) for n in exact[categorical].astype(int)
        ]
    rounded = exact.astype(np.float32)
    down = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > exact, down, rounded).astype(np.float32)


def _only_bit(words: NDArray[np.uint64]) -> int:
    """The position of the one bit that is set in words of 32 bits."""
    whole = sum(int(word) << 32 * n for n, word in enumerate(words))
    assert whole.bit_count() == 1, "LightGBM tells one category from the others where there are few"
    return whole.bit_length() - 1
