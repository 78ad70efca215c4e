"""A bundle verified on logged requests: its own run's scores, and others."""

from math import nan
from typing import Any, cast

import pytest

from corank.analysis.verification import verify_bundle
from corank.funnel.funnel import Funnel
from tests.support.shared import finished_bundle, finished_run

pytestmark = pytest.mark.slow


class ChangedScore:
    """A funnel whose score of the last candidate differs."""

    def __init__(self, funnel: Funnel, score: float) -> None:
        self.funnel, self.score, self.manifest = funnel, score, funnel.manifest

    def rank(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.funnel.rank(request)
        answer["trace"][-1]["stages"]["prerank"]["score"] = self.score
        return answer


@pytest.mark.parametrize("score", [0.9999, nan])
def test_another_score_and_none_are_found(score: float) -> None:
    changed = cast(Funnel, ChangedScore(Funnel.open(finished_bundle()), score))
    verification = verify_bundle(finished_run(), changed, 2)
    (reason,) = verification.reasons
    assert reason.startswith("prerank score: 2 of ") and " most in request " in reason
