"""Boosted trees: fitted to packed data before the first step, as a stage or as teachers, and read as arrays.

Source: gradient boosting, Friedman, Annals of Statistics 2001, by LightGBM, Ke et al., NeurIPS 2017.

Letters: N rows · C candidates · F columns · T trees · L leaves of a tree, at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from corank.core.errors import ConfigError, DataError
from corank.core.files import atomic_file
from corank.core.lazy import require
from corank.core.reports import Progress
from corank.core.types import Floats
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.features.encoding import PLACEMENTS
from corank.features.input_layout import Layout, embed_rows
from corank.metrics.point import auc
from corank.models.joint import JointModel
from corank.models.settings.trees import LEFT_OUT, MOST_CODES, BoostingSettings, TreesSettings
from corank.models.trees import CodeColumn, TreeArrays, Trees, code_tables
from corank.training.config.settings import TreeTeacherSettings
from corank.training.run import TREES, Run

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
    progress: Progress = lambda done, total: None,
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
        progress: receives how many trees are grown, and of how many at most.

    Raises MissingExtraError without LightGBM.
    """
    lightgbm = require("lightgbm", key)
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

    def tell(state: Any) -> None:
        progress(state.iteration + 1, settings.trees)

    data = table(rows)
    if valid is None:
        return lightgbm.train(parameters, data, settings.trees, callbacks=[tell])
    stop = lightgbm.early_stopping(patience, verbose=False)
    return lightgbm.train(parameters, data, settings.trees, [table(valid, data)], callbacks=[tell, stop])


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


@dataclass(frozen=True)
class FlatRows:
    """The candidates of a shard."""

    names: list[str]
    values: Floats  # (C, F)
    categorical: list[bool]
    """Whether a column holds codes without an order."""


def flatten_rows(packed: PackedDataset, shard: Shard) -> FlatRows:
    """Bring what networks read to each candidate: numbers, codes of ids, lengths of lists; vectors are left out."""
    schema, sizes = packed.schema, packed.encoders.sizes
    columns: dict[str, Floats] = {}
    few: list[str] = []
    for placement, (rows, index) in packed.placed_rows(shard).items():
        names = schema.row_features(placement)
        for n, name in enumerate(names.ids):
            if sizes.get(name, 0) <= LEFT_OUT:
                columns[name] = rows.ids[:, n][index].astype(np.float32)
                few += [name] if sizes.get(name, 0) <= MOST_CODES else []
        for name, numbers in names.numbers_at.items():
            for n in range(numbers.start, numbers.stop):
                columns[name if n == numbers.start else f"{name} {n - numbers.start}"] = rows.numbers[:, n][
                    index
                ]
        for n, name in enumerate(names.lists):
            columns[f"{name} length"] = rows.lists[n].length[index].astype(np.float32)
    values = np.stack(list(columns.values()), axis=1)
    return FlatRows(list(columns), values, [name in few for name in columns])


def fit_stage_trees(
    models: Sequence[JointModel],
    packed: PackedDataset,
    seed: int,
    ranks: Ranks,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fit the trees of every stage that is made of them. A collective: the first rank fits.

    Args:
        models: get the trees, and codes in these stages' tables: the one under training, and its average.
        packed: the data.
        seed: of the training.
        ranks: the processes that train together.
        progress: receives how many trees of a label are grown, and of how many at most.

    Raises ConfigError if the packed data lie in object storage, DataError, MissingExtraError without LightGBM.
    """
    for name, network in models[0].stages.items():
        if not isinstance(network, Trees):
            continue
        _require_folder(packed, f"stages: '{name}'")
        for model in models:
            _write_codes(model, name, ranks)

        def fit(network: Trees = network) -> list[dict[str, Any]]:
            return [
                _fit_label(packed, models[0].layout, network, label, seed, progress)
                for label in network.labels
            ]

        fitted = ranks.first_does(fit, f"trees of '{name}'")
        for model in models:
            _set_trees(cast(Trees, model.stages[name]), fitted)


def _set_trees(network: Trees, fitted: Sequence[Mapping[str, Any]]) -> None:
    """Set the trees of a network: of each label their arrays by name."""
    network.categorical.copy_(torch.tensor([column.categorical for column in network.read]))
    for name in fitted[0]:
        buffer = network.get_buffer(name)
        buffer.copy_(torch.tensor([by_name[name] for by_name in fitted], dtype=buffer.dtype))


@torch.no_grad()
def _write_codes(model: JointModel, stage: str, ranks: Ranks) -> None:
    """Write the codes of values into the tables of a stage, of which this rank may hold some rows."""
    tables = model.table_sets[model.tables_of[stage]]
    for dim, codes in code_tables(model.layout).items():
        table = tables.weights[str(dim)]
        rows = np.arange(len(codes))
        if len(tables.buckets) < BUCKETS:
            rows = RowShards(len(codes), ranks.world).rows_of(ranks.rank)
        there = rows < len(codes)
        table[torch.from_numpy(np.flatnonzero(there))] = torch.from_numpy(codes[rows[there]]).to(table.device)


@dataclass(frozen=True)
class TreeRows:
    """What the trees of a label read: the rows that they are fitted to, and those by which some are chosen."""

    columns: Sequence[CodeColumn]
    train: LabelledRows
    valid: LabelledRows | None

    @classmethod
    def read(
        cls, packed: PackedDataset, layout: Layout, columns: Sequence[CodeColumn], stage: str, label: str
    ) -> Self:
        """Read the rows whose label is known. Raises DataError if those to fit are all 1 or all 0."""
        rows = _read_split(packed, layout, columns, "train", label)
        if np.unique(rows.label).size < 2:
            raise DataError(
                f"stage '{stage}': the {len(rows.label):,} training rows whose label is known are of one value of "
                f"{label}, or none; drop the label, or take another model"
            )
        valid = None
        if "valid" in packed.data.split_names:
            valid = _read_split(packed, layout, columns, "valid", label)
        return cls(columns, rows, valid if valid is not None and len(valid.label) else None)

    def grow(self, settings: TreesSettings, seed: int, progress: Progress = lambda done, total: None) -> Any:
        """Fit a LightGBM booster."""
        categorical = [n for n, column in enumerate(self.columns) if column.categorical]
        return grow_trees(
            self.train, categorical, settings, seed, "model: trees", ONE_CATEGORY, self.valid,
            settings.patience, progress,
        )  # fmt: skip

    def choose(self, candidates: Sequence[TreesSettings], seed: int, progress: Progress) -> TreesSettings:
        """The settings with the best AUC of validation rows, the first of equals; the first if there are no rows.

        `progress` receives how many trees are grown, and of how many at most.
        """
        valid = self.valid
        if valid is None or len(candidates) == 1:
            return candidates[0]
        before, total = 0, sum(settings.trees for settings in candidates)
        found: list[float] = []
        for settings in candidates:
            grown = self.grow(settings, seed, lambda done, _, before=before: progress(before + done, total))
            scores = grown.predict(valid.values, raw_score=True, num_threads=1)
            value = auc(np.zeros(len(scores), dtype=np.int64), scores, valid.label).value()
            found.append(0.0 if value is None else value)
            before += settings.trees
        return candidates[int(np.argmax(found))]


def _fit_label(
    packed: PackedDataset, layout: Layout, network: Trees, label: str, seed: int, progress: Progress
) -> dict[str, Any]:
    """Fit the trees of a label. Returns their arrays by name, as lists."""
    settings = network.settings
    rows = TreeRows.read(packed, layout, network.read, settings.name, label)
    arrays = read_trees(rows.grow(settings, seed, progress), settings.trees, settings.leaves)
    return {name: array.tolist() for name, array in asdict(arrays).items()}


def _read_split(
    packed: PackedDataset, layout: Layout, read: Sequence[CodeColumn], split: str, label: str
) -> LabelledRows:
    """Read what trees read of the candidates of a split whose label is known."""
    tables = code_tables(layout)
    values: list[Floats] = []
    labels: list[NDArray[np.int8]] = []
    weights: list[Floats] = []
    for shard in packed.splits[split]:
        with packed.naming_damage():
            known = np.flatnonzero(shard.labels[label] >= 0)
            placed, parts = packed.placed_rows(shard), []
            for placement in PLACEMENTS:
                if at := [column.at for column in read if column.placement == placement]:
                    rows, index = placed[placement]
                    distinct, where = np.unique(index[known], return_inverse=True)
                    # vectors, which come last, are not read
                    dense = embed_rows(
                        rows.take(distinct), layout.groups[placement], (), tables, numbers=True
                    )
                    parts.append(dense[:, at][where])
            whole = np.concatenate(parts, axis=1)
            values.append(np.where([column.averaged for column in read], np.round(whole), whole))
            # no tree splits by a column of one value
            values[-1][:, [n for n, column in enumerate(read) if column.left_out]] = 0
            labels.append(shard.labels[label][known])
            ones = np.ones(len(known), dtype=np.float32)
            weights.append(ones if shard.weight is None else shard.weight[known])
    return LabelledRows(np.concatenate(values), np.concatenate(labels), np.concatenate(weights))


def add_tree_scores(run: Run, packed: PackedDataset, ranks: Ranks) -> PackedDataset:
    """Fit the tree teachers of a run, and let the candidates of the training split have their scores.

    Scores lie in the run's folder, so that a training that is resumed learns from the same. A collective: the first
    rank fits.

    Raises ConfigError if the packed data lie in object storage, DataError, MissingExtraError without LightGBM.
    """
    teachers = run.config.tree_teachers
    if not teachers:
        return packed
    _require_folder(packed, "tree_teachers")
    shards = list(packed.splits["train"])
    starts = np.cumsum([0, *(len(shard.item) for shard in shards)])
    for teacher in teachers:
        path = run.folder / TREES / f"{teacher.name}.npy"

        def write(teacher: TreeTeacherSettings = teacher, path: Path = path) -> None:
            if not path.is_file() or np.load(path, mmap_mode="r").shape != (starts[-1],):
                _save(path, fit_scores(packed, teacher, run.config.train.seed))

        ranks.first_does(write, f"trees of '{teacher.name}'")
        scores = np.load(path, mmap_mode="r")
        shards = [
            replace(shard, scores={**shard.scores, teacher.name: scores[first : first + len(shard.item)]})
            for shard, first in zip(shards, starts, strict=False)
        ]
    return replace(packed, splits={**packed.splits, "train": shards})


def _require_folder(packed: PackedDataset, key: str) -> None:
    """Raise ConfigError, which names the key, if packed data lie in object storage."""
    if packed.url is not None:
        raise ConfigError(f"{key}: trees read all rows at once, not from {packed.url}; pack into a folder")


def _save(path: Path, scores: Floats) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.save(file, scores)


def fit_scores(packed: PackedDataset, teacher: TreeTeacherSettings, seed: int) -> Floats:
    """Score the candidates of the training split by trees that did not see their requests, as logits: (C,).

    Trees are fitted to the candidates whose label is known. Raises DataError if those are all 1 or all 0.
    """
    shards = packed.splits["train"]
    tables = [flatten_rows(packed, shard) for shard in shards]
    values = np.concatenate([table.values for table in tables])
    label = np.concatenate([shard.labels[teacher.label] for shard in shards])
    weight = np.concatenate(
        [np.ones(len(shard.item)) if shard.weight is None else shard.weight for shard in shards]
    )
    sizes = np.concatenate([np.diff(shard.request_start) for shard in shards])
    fold = np.repeat(np.arange(len(sizes)) % teacher.folds, sizes)
    categorical = np.flatnonzero(tables[0].categorical).tolist()
    scores = np.zeros(len(label), dtype=np.float32)
    for n in range(teacher.folds):
        known = (label >= 0) & (fold != n)
        if np.unique(label[known]).size < 2:
            raise DataError(
                f"tree teacher '{teacher.name}': the {int(known.sum()):,} training rows outside of part {n + 1} of "
                f"{teacher.folds} whose label is known are of one value of {teacher.label}, or none; drop the teacher"
            )
        rows = LabelledRows(values[known], label[known], weight[known])
        model = grow_trees(rows, categorical, teacher, seed + n, "tree_teachers")
        scores[fold == n] = model.predict(values[fold == n], raw_score=True, num_threads=1)
    return scores
