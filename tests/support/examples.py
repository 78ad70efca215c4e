"""Whether the example of a bundle is a request that its funnel ranks."""

import json

import numpy as np

from corank.funnel.random_requests import make_example
from corank.funnel.request import Request
from corank_serve.http.body import JSON_CODEC
from tests.support.cases import Case


def assert_example_ranked(case: Case) -> None:
    """Fail unless examples of a case's bundle are requests that lack nothing."""
    for seed in range(3):
        made = make_example(case.funnel, np.random.default_rng(seed))
        assert JSON_CODEC.decode(json.dumps(made).encode(), Request).candidates == made["candidates"]
        answer = case.funnel.rank(Request.parse(made | {"trace": True}))
        assert (answer["missing"], answer["unknown"]) == ([], [])
        assert len(answer["trace"]) == 16
        assert len(answer["items"]) == case.funnel.manifest.stages[-1].keep
