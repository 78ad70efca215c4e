"""What a request's encoded rows hold of all its candidates, whichever of them a stage sees."""

import numpy as np
import pytest

from corank.serving.funnel.request import Request
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def test_a_late_stage_compares_with_candidates_that_an_early_one_dropped(case: Case) -> None:
    encoder = case.funnel.request_encoder
    placed = encoder.schema.row_features("cross")
    compared = [n for n, f in encoder.schema.derived("cross").items() if f.compares_candidates]
    assert {n in placed.ids for n in compared} == {True, False}
    differs = 0
    for number in range(len(case.packed.splits["test"][0])):
        request = case.request("test", number)
        encoded = encoder.encode(Request.parse(request))
        every = encoder.cross(encoded, np.arange(len(encoded.ids)))
        alive = np.arange(0, len(encoded.ids), 2)
        some = encoder.cross(encoded, alive)
        np.testing.assert_array_equal(some.ids, every.ids[alive])
        np.testing.assert_array_equal(some.numbers, every.numbers[alive])
        fewer = request | {"candidates": [request["candidates"][n] for n in alive]}
        alone = encoder.encode(Request.parse(fewer))
        differs += (encoder.cross(alone, np.arange(len(alive))).numbers != some.numbers).any()
    assert differs, "what is asked for decides with what a number is compared"


def test_a_candidate_that_nobody_knows_is_not_compared_with(case: Case) -> None:
    encoder, request = case.funnel.request_encoder, case.request("test", 0)
    more = request | {"candidates": [*request["candidates"], {"id": 10**9}]}
    encoded = encoder.encode(Request.parse(request))
    beside = encoder.encode(Request.parse(more))
    assert len(beside.unknown) == 1
    compared = [n for n, f in encoder.schema.derived("cross").items() if f.compares_candidates]
    assert compared
    for name in compared:
        ours, theirs = encoded.crosses[name], beside.crosses[name]
        assert isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
        np.testing.assert_array_equal(ours, theirs)
