"""The parts of a funnel made of a model alone encode requests and look up tables as its bundle does."""

import numpy as np
import pytest

from corank.analysis.latency import EncodingModel
from corank.serving.funnel.request import Request
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED, LISTED
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("world", [DERIVED, LISTED], ids=["derived", "listed"])
def test_requests_are_encoded_as_by_the_bundle(world: object) -> None:
    case: Case = shared_case(world)  # type: ignore[arg-type]
    assert case.funnel
    encoding_model = EncodingModel.of(case.config, case.packed, case.model, case.calibrators)
    for number in range(3):
        request = Request.parse(case.request("test", number))
        ours, theirs = (model.request_encoder.encode(request) for model in (encoding_model, case.funnel))
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.query.ids, theirs.query.ids)
        np.testing.assert_array_equal(ours.query.numbers, theirs.query.numbers)
        rows = (side.items.rows(side.positions) for side in (ours, theirs))
        one, other = rows
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.numbers, other.numbers)
    for name, tables in case.funnel.scorer.tables.items():
        assert encoding_model.scorer.tables[name].keys() == tables.keys()
        for key, values in tables.items():
            np.testing.assert_array_equal(encoding_model.scorer.tables[name][key], values)
