"""An example is a request that its funnel ranks as it is, whatever the columns."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from corank.serving.funnel.example import make_example
from corank.serving.funnel.request import Request
from corank.serving.http.schemas import decode_request
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED, LONG, RICH, Drawn, drawn_worlds
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


def assert_ranked(case: Case) -> None:
    for seed in range(3):
        made = make_example(case.funnel, np.random.default_rng(seed))
        assert decode_request(json.dumps(made).encode()).candidates == made["candidates"]
        answer = case.funnel.rank(Request.parse(made | {"trace": True}))
        assert (answer["missing"], answer["unknown"]) == ([], [])
        assert len(answer["trace"]) == 16
        assert len(answer["items"]) == case.funnel.manifest.stages[-1].keep


@pytest.mark.parametrize("drawn", [RICH, LONG, DERIVED])
def test_it_is_ranked_and_lacks_nothing(drawn: Drawn) -> None:
    assert_ranked(shared_case(drawn))


# no shrinking: each try is an export
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],
)
@given(drawn=drawn_worlds)
def test_so_is_that_of_any_bundle(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> None:
    assert_ranked(Case.of(tmp_path_factory.mktemp("case"), drawn))


def test_examples_differ() -> None:
    case = shared_case(RICH)
    first, second = (make_example(case.funnel, np.random.default_rng(seed)) for seed in (0, 1))
    assert first["candidates"] != second["candidates"]
