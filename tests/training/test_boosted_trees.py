"""Boosted trees: their arrays, as a stage that is trained, served and carried over, and as teachers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from onnx import TensorProto, checker, helper
from torch import Tensor

import corank
from corank.bundle.stage_facts import TOLERANCE
from corank.core.errors import DataError
from corank.core.types import Floats
from corank.distributed.process_group import join_ranks
from corank.features.feature_kind import ColumnFeature
from corank.features.input_layout import Layout
from corank.features.kinds.id import IdFeature
from corank.features.kinds.number import NumberFeature
from corank.features.schema import Schema
from corank.metrics.point import auc
from corank.models.settings.trees import BoostingSettings, TreesSettings
from corank.models.trees import Trees, ensemble_attributes
from corank.testing.worlds import trained_run
from corank.training.boosted_trees import (
    ONE_CATEGORY,
    LabelledRows,
    fit_scores,
    grow_trees,
    read_trees,
)
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.manifest import exists
from corank.training.config.config_file import read
from corank.training.config.settings import TreeTeacherSettings
from corank.training.run import TREES, Run
from corank.training.train import train_run
from tests.support.boosted_runs import GROWN, grown_run
from tests.support.configs import refused, shop
from tests.support.http_parity import parity
from tests.support.interruptions import Interrupting, interrupt
from tests.support.ranks import fork_ranks
from tests.support.service import running_service

LEAVES, COUNT, CATEGORICAL = 24, 30, [1, 3]
COLUMNS = 5


def random_rows(seed: int, count: int = 4000) -> LabelledRows:
    """Numbers, some of which are close together, and codes; the label depends on both."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, COLUMNS)).astype(np.float32)
    values[:, 1] = rng.integers(0, 30, count)
    values[:, 3] = rng.integers(0, 3, count)
    values[:, 4] = np.round(values[:, 4], 1)
    z = values[:, 0] + np.sin(values[:, 1]) * 2 + values[:, 3] * values[:, 4] + values[:, 2] ** 2
    return LabelledRows(
        values,
        (z + rng.standard_normal(count) > 1).astype(np.int8),
        rng.uniform(0.5, 2, count).astype(np.float32),
    )


def boosted(rows: LabelledRows, **changes: int) -> Any:
    settings = BoostingSettings.model_validate(
        {"trees": COUNT, "leaves": LEAVES, "min_rows": 5, "columns": 1} | changes
    )
    return grow_trees(rows, CATEGORICAL, settings, 3, "a test", ONE_CATEGORY)


def network_of(booster: Any, trees: int = COUNT) -> Trees:
    features: dict[str, ColumnFeature] = {"a": IdFeature(side="user", kind="id", dim=1)}
    features |= {n: NumberFeature(side="user", kind="number") for n in "bcde"}
    settings = TreesSettings(name="rank", keep=1, trees=trees, leaves=LEAVES)
    network = Trees(settings, Layout(Schema(features), {"a": 10}))
    assert len(network.read) == COLUMNS
    arrays = read_trees(booster, trees, LEAVES)
    for name, array in vars(arrays).items():
        network.get_buffer(name).copy_(torch.from_numpy(array)[None])
    network.categorical[CATEGORICAL] = 1
    return network


def by_onnx(network: Trees, values: Floats) -> Floats:
    attributes: Any = ensemble_attributes(network.arrays(0), network.categorical.numpy() > 0)
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, COLUMNS])
    wanted = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph([node], "trees", [inputs], [wanted])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    checker.check_model(model)
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})[0])[
        :, 0
    ]


@pytest.mark.parametrize("seed", range(2))
def test_arrays_give_what_lightgbm_gives(seed: int) -> None:
    booster, other = boosted(random_rows(seed)), random_rows(seed + 100)
    network = network_of(booster)
    used = np.unique(network.column[0][network.left[0] != network.right[0]])
    assert set(CATEGORICAL) < set(used.tolist()), "trees split by categories and by numbers"
    values = np.concatenate((random_rows(seed).values, other.values))
    values[-5:, 1] = 40  # a code that was not there
    # at each bound itself, and next to it
    bound = network.threshold[0][:, 0].numpy()
    edges = np.repeat(values[: 3 * COUNT], 1, axis=0)
    for shift, some in zip((-np.inf, 0, np.inf), np.split(edges, 3), strict=True):
        column = network.column[0][:, 0].long().numpy()
        some[np.arange(COUNT), column] = bound if shift == 0 else np.nextafter(bound, np.float32(shift))
    values = np.concatenate((values, edges))
    expected = booster.predict(values, raw_score=True)
    sums = network._sum_leaves(0, torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(sums, expected, atol=2e-6)
    np.testing.assert_allclose(by_onnx(network, values), expected, atol=2e-6)


@pytest.fixture(scope="module")
def grown() -> Run:
    return grown_run()


def trees_of(run: Run, stage: str = "rank") -> dict[str, Tensor]:
    """Tensors of a stage in the trained model."""
    checkpoint, prefix = run.trained(run.packed()), f"stages.{stage}."
    return {
        name.removeprefix(prefix): checkpoint.whole(name)
        for name in checkpoint.names
        if name.startswith(prefix)
    }


def same(one: Run, other: Run) -> bool:
    ours, theirs = trees_of(one), trees_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def bundle(grown: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grown") / "bundle"
    corank.export(grown.folder, path)
    return path


def test_a_service_scores_as_the_run_does(grown: Run, bundle: Path, tmp_path: Path) -> None:
    with running_service(str(bundle), tmp_path / "cache") as (url, _):
        agreement = parity(grown, url, 10)
    assert agreement["requests"] == 10 and agreement["scores"] > 100 and agreement["largest"] <= TOLERANCE


def test_labels_of_one_value_are_named(grown: Run, small_world: Path, tmp_path: Path) -> None:
    world = Path(shutil.copytree(small_world, tmp_path / "world", ignore=shutil.ignore_patterns("packed")))
    for file in (world / "log").glob("*.parquet"):
        pl.read_parquet(file).with_columns(pl.col("is_click") * 0).write_parquet(file)
    by_level = "losses=[{kind: levels, stage: prerank, form: ranknet}]"
    with pytest.raises(DataError, match=r"'rank' cannot be fitted to 'click' of .* 'train': 0 positives and"):
        trained_run(world / "config.yaml", tmp_path / "run", *GROWN, by_level)


SERVED = "stages.1={name: rank, model: trees, cuts: [preranked], keep: 10, labels: [click, order]}"


def test_a_loss_of_a_stage_that_is_fitted_is_refused(tmp_path: Path) -> None:
    told = "losses.0: 'rank' is fitted to the log before training, and a loss ('rank.click')"
    assert refused(shop(tmp_path), SERVED).startswith(told)


def test_an_epoch_is_not_chosen_by_a_stage_that_is_fitted(tmp_path: Path) -> None:
    changes = (SERVED, "losses=[{kind: click, stage: prerank}]", "train.early_stop={metric: rank.click.auc}")
    assert refused(shop(tmp_path), *changes).startswith("train.early_stop.metric: 'rank' is fitted before")


def train_together(run: Run) -> None:
    """Train as the rank of the environment."""
    torch.set_num_threads(1)
    with join_ranks() as ranks:
        train_run(run, run.packed(), ranks=ranks)


@pytest.mark.parametrize("tables", ["sharded", "replicated"])
def test_ranks_that_train_together_have_the_same_trees(
    grown: Run, small_world: Path, tmp_path: Path, tables: str
) -> None:
    config = small_world / "config.yaml"
    settings = read(config, [*GROWN, f"train.tables={tables}"])
    run = Run.create(tmp_path / "run", settings, config.parent)
    ends = fork_ranks(train_together, 2, run)
    assert [code for code, _ in ends] == [0, 0], "\n".join(text for _, text in ends)
    assert same(run, grown)
    ours, theirs = (
        finished.trained(finished.packed()).whole("tables.rank.weights.16") for finished in (run, grown)
    )
    assert torch.equal(ours, theirs)


TEACHER = TreeTeacherSettings(name="trees", trees=8, min_rows=5, folds=2)
LESSONS = (
    "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}, "
    "{kind: distill, teacher: trees, student: rank, on: [exposed]}]"
)
TAUGHT = ["tree_teachers=[{name: trees, trees: 8, min_rows: 5, folds: 2}]", LESSONS]
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


def test_an_interrupted_training_goes_on_with_the_same_scores(
    taught: Run, small_world: Path, tmp_path: Path
) -> None:
    config, folder = small_world / "config.yaml", tmp_path / "run"
    interrupt(Interrupting(1), config, TAUGHT, folder=folder)
    assert not exists(folder / "model")
    resumed = trained_run(config, folder, *TAUGHT, resume=True)
    assert torch.equal(_first(resumed.trained(resumed.packed())), _first(taught.trained(taught.packed())))


def _first(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.whole("stages.rank.first.weight")
