"""Gradient boosting on packed data: a model of single rows with the features that corank's networks read.

All columns come from the pack: numbers, priors and ages as they are, codes of ids as categories where there are few,
lengths of lists. Cosines of vectors are columns; the single numbers of vectors are, too, if that is
better on validation, where learning rate and leaves are chosen as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.metrics.point import auc
from corank.metrics.request_order import ndcg_at
from corank.models.settings.trees import MOST_CODES
from corank.training.boosted_trees import flatten_rows

Numbers = NDArray[np.floating]
SWEEP = tuple(product((0.05, 0.1), (15, 31)))
"""Learning rates and leaves a tree; early stopping chooses the number of trees."""


@dataclass(frozen=True)
class FlatSplit:
    """A split as one table: a row a candidate, in the order of the pack."""

    names: list[str]
    values: Numbers
    """(N, columns)"""
    wide: Numbers
    """Single numbers of vectors: (N, columns), none without vectors."""
    request: Longs
    """(N,)"""
    user: Longs
    """(N,)"""
    label: NDArray[np.int8]
    """(N,)"""
    truth: Floats | None
    """The true probability of the label: (N,)."""

    def column(self, name: str) -> Numbers:
        """A column by its name: (N,)."""
        return self.values[:, self.names.index(name)]


def flatten_split(packed: PackedDataset, split: str) -> FlatSplit:
    """Make one table of a split: all inputs of networks, and vectors."""
    parts = [_flatten_shard(packed, shard) for shard in packed.splits[split]]
    offsets = np.cumsum([0, *(len(shard) for shard in packed.splits[split])])[:-1]
    truths = [part.truth for part in parts]
    return FlatSplit(
        parts[0].names,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.wide for part in parts]),
        np.concatenate([part.request + first for part, first in zip(parts, offsets, strict=True)]),
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.label for part in parts]),
        None if any(t is None for t in truths) else np.concatenate([t for t in truths if t is not None]),
    )


def _flatten_shard(packed: PackedDataset, shard: Shard) -> FlatSplit:
    flat, placed = flatten_rows(packed, shard), packed.placed_rows(shard)
    vectors = [feature.take(index).dense() for rows, index in placed.values() for feature in rows.vectors]
    wide = np.concatenate(vectors, axis=1) if vectors else np.empty((len(flat.values), 0), dtype=np.float32)
    label, of = next(iter(packed.data.labels)), placed["query"][1]
    truth = shard.truth.get(label)
    return FlatSplit(
        flat.names,
        flat.values,
        wide,
        of.astype(np.int64),
        shard.user[of].astype(np.int64),
        shard.labels[label],
        truth,
    )


@dataclass(frozen=True)
class BoostedScores:
    """Scores of the test by the setting that validation chose."""

    scores: dict[str, list[Numbers]]
    """By the metric that chose, `auc` or `ndcg@10`: (N,) for each seed."""
    chosen: dict[str, str]


def boost(splits: dict[str, FlatSplit], few: list[bool], seeds: int) -> BoostedScores:
    """Choose a setting on validation by AUC, and one by NDCG@10 of requests; fit each once a seed, score the test.

    Args:
        splits: `train`, `valid` and `test`.
        few: of each column, whether it is a category.
        seeds: how many.
    """
    train, valid, test = (splits[name] for name in ("train", "valid", "test"))
    arms = [False, True] if train.wide.shape[1] else [False]
    quality: dict[tuple[float, int, bool], dict[str, float]] = {}
    first: dict[tuple[float, int, bool], Numbers] = {}
    for (rate, leaves), wide in product(SWEEP, arms):
        model = _fit(train, valid, few, rate, leaves, wide, 0)
        scored = _score(model, valid, wide)
        quality[rate, leaves, wide] = {name: choose(valid, scored) for name, choose in CHOOSE.items()}
        first[rate, leaves, wide] = _score(model, test, wide)
    best = {name: max(quality, key=lambda setting, of=name: quality[setting][of]) for name in CHOOSE}  # type: ignore[misc]
    scores: dict[tuple[float, int, bool], list[Numbers]] = {}
    for rate, leaves, wide in dict.fromkeys(best.values()):
        models = (_fit(train, valid, few, rate, leaves, wide, seed) for seed in range(1, seeds))
        others = [_score(model, test, wide) for model in models]
        scores[rate, leaves, wide] = [first[rate, leaves, wide], *others]
    return BoostedScores(
        {name: scores[setting] for name, setting in best.items()},
        {
            name: f"rate {rate}, {leaves} leaves, {'with' if wide else 'without'} numbers of vectors"
            for name, (rate, leaves, wide) in best.items()
        },
    )


def few_valued(packed: PackedDataset, names: list[str]) -> list[bool]:
    """Whether each of some features is a category: an id of few values."""
    return [_is_few(packed, name) for name in names]


def _is_few(packed: PackedDataset, name: str) -> bool:
    feature = packed.schema.features.get(name)
    return feature is not None and feature.storage == "id" and packed.encoders.sizes[name] <= MOST_CODES


def ndcg(split: FlatSplit, scores: Numbers) -> float:
    """NDCG@10 of the requests of a split."""
    return float(ndcg_at(split.user, split.request, scores, split.label).value() or 0.0)


def area(split: FlatSplit, scores: Numbers) -> float:
    """AUC of a split."""
    return float(auc(split.user, scores, split.label).value() or 0.0)


CHOOSE: dict[str, Callable[[FlatSplit, Numbers], float]] = {"auc": area, "ndcg@10": ndcg}
"""The metrics that choose settings, each for the figures of its kind."""


def _matrix(split: FlatSplit, wide: bool) -> Numbers:
    return np.concatenate([split.values, split.wide], axis=1) if wide else split.values


def _fit(
    train: FlatSplit, valid: FlatSplit, few: list[bool], rate: float, leaves: int, wide: bool, seed: int
) -> HistGradientBoostingClassifier:
    X, valid_X = _matrix(train, wide), _matrix(valid, wide)
    model = HistGradientBoostingClassifier(
        learning_rate=rate, max_leaf_nodes=leaves, max_iter=600, min_samples_leaf=50, max_features=0.3,
        categorical_features=[*few, *[False] * (X.shape[1] - len(few))], early_stopping=True,
        n_iter_no_change=15, random_state=seed,
    )  # fmt: skip
    return model.fit(X, train.label, X_val=valid_X, y_val=valid.label)


def _score(model: HistGradientBoostingClassifier, split: FlatSplit, wide: bool) -> Numbers:
    return np.asarray(model.predict_proba(_matrix(split, wide))[:, 1])
