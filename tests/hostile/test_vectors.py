"""Vectors that requests and upserts give: what cannot be kept is refused by name, and the rest is read as a table's."""

from typing import Any

import numpy as np
import pytest

from corank.core.errors import RequestError
from corank.core.ragged import Rows
from corank.serving.funnel.random_requests import make_example
from corank.serving.funnel.request import Request
from corank.serving.store.record_codec import RecordFormat
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow

ODD: list[tuple[Any, str]] = [
    ([1.0, 2.0], "expected 3 numbers, as features.item_4.dim says; received 2"),
    ([], "expected 3 numbers"),
    ([0.5] * 10_000, "expected 3 numbers, as features.item_4.dim says; received 10000"),
    ([1.0, 2.0, float("nan")], "must be finite"),
    ([1.0, 2.0, float("inf")], "must be finite"),
    ([1.0, 2.0, 1e39], "must be finite, in 32 bits"),
    ([1.0, 2.0, -1e5], "too large for the 16 bits"),
    ([1.0, 2.0, None], "must be finite"),
    (["a", "b", "c"], "expected a list of 3 numbers"),
    ("abc", "expected a list of 3 numbers"),
    (7, "expected a list of 3 numbers"),
    (True, "expected a list of 3 numbers"),
    ([[1.0], [2.0], [3.0]], "expected a list of 3 numbers"),
    ([True, False, True], "expected a list of 3 numbers"),
    ([10**400, 1.0, 2.0], "item_4"),
    ([2**70, 1, 2], "item_4"),
    ([1.0, "2", 3.0], "item_4"),
]


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


def item_rows(case: Case, vector: Any) -> Rows:
    layer = case.funnel.request_encoder.encode_items([77], [{"item_4": vector, "worth": 1.0}])
    return layer.records.rows


@pytest.mark.parametrize(("vector", "message"), ODD, ids=lambda value: repr(value)[:24])
def test_a_vector_of_an_item_that_cannot_be_kept_is_refused(case: Case, vector: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        item_rows(case, vector)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("vector", [[1.0, 2.0], ["a", "b", "c"], 7, [1.0, 2.0, 1e39]])
def test_a_vector_of_the_query_is_refused_with_its_field(case: Case, vector: Any) -> None:
    with pytest.raises(RequestError, match=r"context\.context_1: "):
        case.funnel.rank(Request(user={}, context={"context_1": vector}, candidates=[1, 2]))


def test_whole_numbers_among_floats_nulls_and_zeros_are_taken(case: Case) -> None:
    assert item_rows(case, [1, 2.5, 3]).vectors[1].dense().tolist() == [[1, 2.5, 3]]
    assert item_rows(case, [1, 2, 3]).vectors[1].dense().tolist() == [[1, 2, 3]]
    for missing in (None, [0, 0, 0]):
        assert item_rows(case, missing).vectors[1].row.tolist() == [-1]


def test_a_record_holds_a_vector_in_16_bits(case: Case) -> None:
    layer = case.funnel.request_encoder.encode_items([77], [{"item_4": [0.1, 0.2, 0.3], "worth": 1.0}])
    form = RecordFormat.from_manifest(case.funnel.manifest)
    (record,) = [value for _, value in form.encode(layer, np.arange(1))]
    offset, kind, count = form.fields["content.1"]
    vector = np.frombuffer(record, kind, count, offset)
    assert (kind, vector.tolist()) == ("<f2", np.array([0.1, 0.2, 0.3], np.float16).tolist())


def test_an_example_request_and_an_item_show_vectors(case: Case) -> None:
    request = make_example(case.funnel, np.random.default_rng(0))
    assert len(request["context"]["context_1"]) == 3
    assert case.funnel.rank(Request.parse(request))["items"]
    described = [case.funnel.describe_item(str(n)) for n in range(8)]
    vectors = [item["features"]["item_4"] for item in described if item is not None]
    assert all(vector is None or len(vector) == 3 for vector in vectors)
    assert any(vectors)
