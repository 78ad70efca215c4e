"""Boosted trees as arrays: torch and the ONNX operator give LightGBM's scores."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, checker, helper

from corank.core.types import Floats
from corank.features.feature_kind import ColumnFeature
from corank.features.input_layout import Layout
from corank.features.kinds.id import IdFeature
from corank.features.kinds.number import NumberFeature
from corank.features.schema import Schema
from corank.models.settings.trees import BoostingSettings, TreesSettings
from corank.models.trees import Trees, ensemble_attributes
from corank.training.boosted_trees import ONE_CATEGORY, LabelledRows, grow_trees, read_trees

LEAVES, TREES, CATEGORICAL = 24, 30, [1, 3]
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


def grown(rows: LabelledRows, **changes: int) -> Any:
    settings = BoostingSettings.model_validate(
        {"trees": TREES, "leaves": LEAVES, "min_rows": 5, "columns": 1} | changes
    )
    return grow_trees(rows, CATEGORICAL, settings, 3, "a test", ONE_CATEGORY)


def network_of(booster: Any, trees: int = TREES) -> Trees:
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


@pytest.mark.parametrize("seed", range(3))
def test_arrays_give_what_lightgbm_gives(seed: int) -> None:
    booster, other = grown(random_rows(seed)), random_rows(seed + 100)
    network = network_of(booster)
    used = np.unique(network.column[0][network.left[0] != network.right[0]])
    assert set(CATEGORICAL) < set(used.tolist()), "trees split by categories and by numbers"
    values = np.concatenate((random_rows(seed).values, other.values))
    values[-5:, 1] = 40  # a code that was not there
    # at each bound itself, and next to it
    bound = network.threshold[0][:, 0].numpy()
    edges = np.repeat(values[: 3 * TREES], 1, axis=0)
    for shift, some in zip((-np.inf, 0, np.inf), np.split(edges, 3), strict=True):
        column = network.column[0][:, 0].long().numpy()
        some[np.arange(TREES), column] = bound if shift == 0 else np.nextafter(bound, np.float32(shift))
    values = np.concatenate((values, edges))
    expected = booster.predict(values, raw_score=True)
    sums = network._sum_leaves(0, torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(sums, expected, atol=2e-6)
    np.testing.assert_allclose(by_onnx(network, values), expected, atol=2e-6)


def test_trees_of_one_leaf_and_room_for_more(seed: int = 0) -> None:
    rows = random_rows(seed, 300)
    booster = grown(rows, min_rows=200, trees=2)
    network, expected = network_of(booster, trees=4), booster.predict(rows.values, raw_score=True)
    assert np.ptp(expected) == 0
    for sums in (
        network._sum_leaves(0, torch.from_numpy(rows.values)).numpy(),
        by_onnx(network, rows.values),
    ):
        np.testing.assert_allclose(sums, expected, atol=1e-6)


def test_validation_chooses_the_number_of_trees() -> None:
    rows, valid = random_rows(0, 500), random_rows(1, 500)
    settings = BoostingSettings(trees=300, leaves=LEAVES, min_rows=2, columns=1, lr=0.5)
    booster = grow_trees(rows, CATEGORICAL, settings, 0, "a test", ONE_CATEGORY, valid, 5)
    arrays = read_trees(booster, 300, LEAVES)
    kept = int(arrays.value.any(1).sum())
    assert kept == booster.best_iteration < 100

    def entropy(count: int) -> float:
        z = booster.predict(valid.values, raw_score=True, num_iteration=count)
        loss = np.logaddexp(0, z) - valid.label * z
        return float(np.average(loss, weights=valid.weight))

    assert entropy(kept) == min(entropy(n) for n in range(1, booster.current_iteration() + 1))
