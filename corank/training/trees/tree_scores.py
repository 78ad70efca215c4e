"""Scores of boosted trees for the candidates of a training, in addition to the logged ones.

Letters: C candidates of the training split · F columns.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from corank.core.errors import ConfigError, DataError
from corank.core.files import atomic_file
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.training.run import TREES, Run
from corank.training.trees.boosting import LabelledRows, grow_trees
from corank.training.trees.flat_rows import flatten_rows
from corank.training.trees.settings import TreeTeacherSettings


def add_tree_scores(run: Run, packed: PackedDataset, ranks: Ranks) -> PackedDataset:
    """Fit the tree teachers of a run, and let the candidates of the training split have their scores.

    Scores lie in the run's folder, so that a training that is resumed learns from the same. A collective: the first
    rank fits.

    Raises ConfigError if the packed data lie in object storage, DataError, MissingExtraError without LightGBM.
    """
    teachers = run.config.tree_teachers
    if not teachers:
        return packed
    if packed.url is not None:
        raise ConfigError(
            f"tree_teachers: {packed.url} is no folder of this machine, and trees read all rows at once; "
            "pack into a folder"
        )
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
