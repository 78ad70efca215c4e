"""Stage models of the lab: scored as trained, with times of events where a stage reads their ages."""

import pytest

from corank.core.errors import RequestError
from corank.funnel.request import Request
from tests.lab.worlds import WORLDS
from tests.support.parity import assert_axes_named, assert_scored_as_trained
from tests.support.shared import shared_case


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_funnels_score_as_the_training_model_does(world: str) -> None:
    case = shared_case(WORLDS[world])
    assert_scored_as_trained(case)
    assert_axes_named(case.model)
    assert case.funnel.manifest.product_stages == [
        stage.name for stage in case.config.stages if stage.orders_by_product
    ]


@pytest.mark.slow
def test_events_have_times_in_a_request_where_a_stage_reads_their_ages() -> None:
    case = shared_case(WORLDS["members and encoded events"])
    assert case.packed.schema.histories()["history_0"].half_life is None
    request = case.request("test", 0)
    events = [{"id": 1, "time": request["time"] - 60_000}]
    assert case.funnel.logits(Request.parse(request | {"user": request["user"] | {"history_0": events}}))
    user = request["user"] | {"history_0": [1]}
    with pytest.raises(RequestError, match=r"^user\.history_0\.0: the times of events are needed: write"):
        case.funnel.logits(Request.parse(request | {"user": user}))
