"""An example is a request that its funnel ranks as it is; test_funnel.py tests those of random worlds."""

import numpy as np
import pytest

from corank.serving.funnel.random_requests import make_example
from tests.support.examples import assert_example_ranked
from tests.support.random_worlds import DERIVED, LONG, RICH, Drawn
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("drawn", [RICH, LONG, DERIVED])
def test_it_is_ranked_and_lacks_nothing(drawn: Drawn) -> None:
    assert_example_ranked(shared_case(drawn))


def test_examples_differ() -> None:
    case = shared_case(RICH)
    first, second = (make_example(case.funnel, np.random.default_rng(seed)) for seed in (0, 1))
    assert first["candidates"] != second["candidates"]
