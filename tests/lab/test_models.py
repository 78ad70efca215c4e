"""Stage models of the lab: scored as trained, checked without torch; options that earlier versions had."""

from pathlib import Path

import pytest

from corank.core.errors import RequestError
from corank.funnel.request import Request
from corank.training.config.config_file import read
from tests.lab.worlds import WORLDS
from tests.support.configs import TEXT, refused
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


# no shrinking: each try is an export


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


MOVED = {
    "stages.1.numbers": "{kind: piecewise}",
    "stages.1.gates": "{}",
    "stages.1.members": "8",
    "stages.1.experts": "{}",
    "stages.1.din": "{history: history, encoder: {}}",
    "stages.0.generated": "[64]",
}
"""Options of `mlp` and `towers` in earlier versions, with values of theirs."""


@pytest.mark.parametrize("key", MOVED)
def test_an_option_of_an_earlier_version_is_where_the_error_says(path: Path, key: str) -> None:
    message = refused(path, f"{key}={MOVED[key]}")
    named = "stages.1.din.encoder" if key.endswith("din") else key
    assert message.startswith(f"{named}: moved to stage model `") and message.count("\n") == 0
    model = message.partition("`")[2].partition("`")[0]
    of_stage = key.rpartition(".")[0]
    losses = ["losses.1={kind: mimic, stage: prerank}"] if key.endswith("generated") else []
    config = read(path, [f"{of_stage}.model={model}", f"{key}={MOVED[key]}", *losses])
    assert config.stage("rank" if of_stage == "stages.1" else "prerank").model == model
