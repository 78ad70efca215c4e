"""What the scorers of a bundle's stages give for some candidates of a request."""

import numpy as np
import pytest

from corank.core.ordering import stage_value
from corank.serving.funnel.request import Request
from corank.serving.funnel.scorer import PartsScorer
from corank.serving.funnel.stage_scorer import Candidates
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


def test_candidates_are_scored_in_the_order_given(case: Case) -> None:
    """A stage that cuts nobody hands all candidates on in another order."""
    funnel = case.funnel
    request = funnel.encode(Request.parse(case.request("test", 0)))
    mixed = np.random.default_rng(0).permutation(len(request.ids))
    for stage in funnel.manifest.stages:
        in_order, reordered, some = (
            funnel.scorer.evaluate(stage, Candidates(funnel.request_encoder, request, alive, {}))[0]["click"]
            for alive in (np.arange(len(mixed)), mixed, mixed[: len(mixed) // 2])
        )
        np.testing.assert_allclose(reordered, in_order[mixed], atol=1e-6)
        np.testing.assert_allclose(some, reordered[: len(some)], atol=1e-6)


def test_the_graph_calibrates_and_values_as_evaluation_does(case: Case) -> None:
    funnel = case.funnel
    encoded = funnel.encode(Request.parse(case.request("test", 0)))
    candidates = Candidates(funnel.request_encoder, encoded, np.arange(len(encoded.ids)), {})
    for stage in funnel.manifest.stages:
        scorer = funnel.scorer.stages[stage.name]
        assert isinstance(scorer, PartsScorer)
        logits, value = funnel.scorer.evaluate(stage, candidates)
        formula = scorer.inputs.value
        columns = {n: encoded.column(n, candidates.alive) for n in formula.names if n not in stage.labels}
        expected = stage_value(formula, logits, funnel.scorer.calibrators[stage.name], columns)
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=1e-6)
