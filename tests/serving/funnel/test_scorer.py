"""What the scorers of a bundle's stages give for some candidates of a request."""

from pathlib import Path

import numpy as np
import pytest

from corank.analysis.logged_request import logged_request
from corank.core.errors import PluginError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer
from corank.training.run import Run


def test_candidates_are_scored_in_the_order_given(trained: Run, trained_bundle: Path) -> None:
    """A stage that cuts nobody hands all candidates on in another order."""
    funnel = Funnel.open(trained_bundle)
    request = funnel.request_encoder.encode(Request.parse(logged_request(trained, "test", 0)))
    count = len(request.ids)
    mixed = np.random.default_rng(0).permutation(count)
    for stage in funnel.manifest.stages:
        in_order, reordered = (
            funnel.scorer.evaluate(stage, Candidates(funnel.request_encoder, request, alive, {}))[0]["click"]
            for alive in (np.arange(count), mixed)
        )
        np.testing.assert_allclose(reordered, in_order[mixed], atol=1e-6)
        some = mixed[: count // 2]
        few = funnel.scorer.evaluate(stage, Candidates(funnel.request_encoder, request, some, {}))[0]["click"]
        np.testing.assert_allclose(few, in_order[some], atol=1e-6)


class NoScore(StageScorer):
    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs = inputs


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (object, "scorer 'unfit': expected a subclass of StageScorer"),
        (NoScore, "scorer 'unfit': NoScore must define score"),
    ],
)
def test_an_unfit_scorer_is_refused_by_name(part: type, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        SCORERS.register("unfit")(part)
    assert sorted(SCORERS) == ["graph", "parts", "vectors"]
