"""Trees that teach: their data, the use of their scores in training, and refused settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import corank
from corank.core.errors import DataError
from corank.metrics.point import auc
from corank.training.boosted_trees import fit_scores
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.config.settings import TreeTeacherSettings
from corank.training.run import TREES, Run
from tests.support.configs import TEXT, refused
from tests.support.interruptions import Interrupting, StoppedError
from tests.support.simulated_runs import trained_run

TEACHER = TreeTeacherSettings(name="trees", trees=8, min_rows=5, folds=2)
LOSSES = (
    "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}, "
    "{kind: distill, teacher: trees, student: rank, on: [exposed]}]"
)
TAUGHT = ["tree_teachers=[{name: trees, trees: 8, min_rows: 5, folds: 2}]", LOSSES]
TAUGHT += ["train.epochs=1", "train.requests=16", "train.checkpoint_every=2"]


@pytest.fixture(scope="module")
def taught(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_run(small_world / "config.yaml", tmp_path_factory.mktemp("taught"), *TAUGHT)


def test_a_candidate_is_scored_by_trees_that_did_not_see_its_request(taught: Run) -> None:
    packed = taught.packed()
    scores = np.load(taught.folder / TREES / "trees.npy")
    assert np.array_equal(scores, fit_scores(packed, TEACHER, taught.config.train.seed)), "the same once more"
    shards = packed.splits["train"]
    sizes = np.concatenate([np.diff(shard.request_start) for shard in shards])
    first = np.repeat(np.arange(len(sizes)) % 2, sizes) == 0
    label = np.concatenate([shard.labels["click"] for shard in shards])
    known = label >= 0
    user = np.concatenate([np.repeat(shard.user, np.diff(shard.request_start)) for shard in shards])
    assert (auc(user[known], scores[known], label[known]).value() or 0) > 0.55

    # other labels in the first part change what the second part is scored by, and nothing of the first
    ends = np.cumsum([len(shard.item) for shard in shards])[:-1]
    flipped = np.where(first & known, 1 - label, label).astype(label.dtype)
    changed = [
        replace(shard, labels=shard.labels | {"click": part})
        for shard, part in zip(shards, np.split(flipped, ends), strict=True)
    ]
    other = fit_scores(replace(packed, splits={**packed.splits, "train": changed}), TEACHER, 0)
    assert np.array_equal(other[first], scores[first])
    assert not np.allclose(other[~first], scores[~first])


def test_they_teach_and_are_no_part_of_the_model(taught: Run, small_world: Path, tmp_path: Path) -> None:
    alone = LOSSES.replace(", {kind: distill, teacher: trees, student: rank, on: [exposed]}", "")
    plain = trained_run(small_world / "config.yaml", tmp_path / "plain", alone, *TAUGHT[2:])
    one, other = (run.trained(run.packed()) for run in (taught, plain))
    assert set(one.names) == set(other.names)
    assert not torch.equal(_first(one), _first(other))


def test_an_interrupted_training_goes_on_with_the_same_scores(
    taught: Run, small_world: Path, tmp_path: Path
) -> None:
    config, folder = small_world / "config.yaml", tmp_path / "run"
    with pytest.raises(StoppedError):
        corank.train(config, TAUGHT, folder=folder, callbacks=[Interrupting(1)])
    assert not (folder / "model.safetensors").exists()
    resumed = trained_run(config, folder, *TAUGHT, resume=True)
    assert torch.equal(_first(resumed.trained(resumed.packed())), _first(taught.trained(taught.packed())))


def _first(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.whole("stages.rank.first.weight")


def test_labels_of_one_value_are_named(taught: Run) -> None:
    packed = taught.packed()
    none = [
        replace(shard, labels={"click": np.minimum(shard.labels["click"], 0)})
        for shard in packed.splits["train"]
    ]
    with pytest.raises(DataError, match=r"tree teacher 'trees'.* of one value of click"):
        fit_scores(replace(packed, splits={**packed.splits, "train": none}), TEACHER, 0)


@pytest.mark.parametrize(
    ("settings", "losses", "told"),
    [
        (
            "{name: trees, label: buy}",
            "",
            "tree_teachers.0.label: no label 'buy'; data.labels are click, order",
        ),
        ("{name: rank}", "", "tree_teachers.0.name: a stage, a teacher or a score is called 'rank', too"),
        ("{name: trees}", "", "tree_teachers.0: nobody learns from 'trees'; add a loss"),
        ("{name: trees, label: order}", "click", "losses.3.label: 'trees' predicts order; received click"),
        ("{name: trees, folds: 1}", "click", "tree_teachers.0.folds"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: str, losses: str, told: str) -> None:
    path = tmp_path / "config.yaml"
    lesson = f"  - {{kind: distill, teacher: trees, student: rank, label: {losses}, on: [exposed]}}\ntrain:"
    path.write_text(TEXT.replace("train:", lesson) if losses else TEXT, encoding="utf-8")
    assert refused(path, f"tree_teachers=[{settings}]").startswith(told)
