"""Scores of a split, in the order of the log."""

import numpy as np
import pytest
import torch

from corank.batches.reader import Reader
from corank.evaluation.predict import Predictions, predict_split
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case

EXPOSED = 2


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def whole(case: Case) -> Predictions:
    return predict_split(case.model, case.packed, "train")


def test_columns_are_those_packed_in_the_order_of_the_log(case: Case, whole: Predictions) -> None:
    (shard,) = case.packed.splits["train"]
    np.testing.assert_array_equal(whole.requests.start, shard.request_start)
    np.testing.assert_array_equal(whole.requests.user, shard.user)
    np.testing.assert_array_equal(whole.level, shard.level)
    np.testing.assert_array_equal(whole.exposed, shard.level == EXPOSED)
    for label in ("click", "buy"):
        np.testing.assert_array_equal(whole.labels[label], shard.labels[label])
        assert whole.labels[label].dtype == np.int8
    assert (whole.weight == 1).all()


def test_every_stage_and_label_has_the_models_logits(case: Case, whole: Predictions) -> None:
    assert {s: list(labels) for s, labels in whole.logits.items()} == {
        "prerank": ["click"],
        "rank": ["click", "buy"],
    }
    with torch.no_grad():
        (batch,) = Reader(case.packed, "train", 1000).read_ordered()
        expected = case.model(batch)
    for stage, output in expected.items():
        for label, logits in output.logits.items():
            np.testing.assert_array_equal(whole.logits[stage][label], logits.numpy())


@pytest.mark.parametrize("requests", [1, 5])
def test_the_size_of_batches_does_not_matter(case: Case, whole: Predictions, requests: int) -> None:
    parts = predict_split(case.model, case.packed, "train", requests=requests)
    np.testing.assert_array_equal(parts.requests.start, whole.requests.start)
    np.testing.assert_array_equal(parts.level, whole.level)
    for stage, labels in whole.logits.items():
        for label, logits in labels.items():
            np.testing.assert_allclose(parts.logits[stage][label], logits, atol=1e-5)
