"""Stage models of the lab: scored as trained, forecast, checked without torch; options that earlier versions had."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from corank.core.errors import RequestError
from corank.features.input_layout import Layout
from corank.models.settings.network import Work
from corank.models.settings.stage import STAGE_MODELS
from corank.serving.funnel.request import Request
from corank.training.config.config_file import plain, read
from tests.lab.worlds import WORLDS, lab_worlds
from tests.support.cases import Case
from tests.support.configs import TEXT, refused
from tests.support.parity import assert_axes_named, assert_scored_as_trained
from tests.support.random_worlds import Drawn
from tests.support.shared import shared_case

LAB = ["mlp_lab", "towers_generated", "towers_heads", "towers_mlp"]


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
@pytest.mark.thorough
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],
)
@given(drawn=lab_worlds)
def test_funnels_of_random_worlds_score_as_the_training_model_does(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn
) -> None:
    assert_scored_as_trained(Case.of(tmp_path_factory.mktemp("case"), drawn))


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


def test_null_is_read_as_the_file_of_an_earlier_run_has_it(path: Path) -> None:
    gone = [f"{key}=null" for key in MOVED if not key.endswith("din")]
    din = "{history: history, encoder: null}"
    written = plain(read(path, [f"stages.1.din={din}", *gone]))
    assert written == plain(read(path, ["stages.1.din={history: history}"]))


def test_a_forecast_counts_the_encoder(path: Path) -> None:
    def work(din: str) -> Work:
        config = read(path, ["stages.1.model=mlp_lab", f"stages.1.din={din}"])
        sizes = dict.fromkeys(config.declared.embedded(), 10)
        return config.stages[1].further_work(Layout(config.declared, sizes), 8, 100)

    bare, encoded = work("{history: history}"), work("{history: history, encoder: {}}")
    assert bare.multiply_adds > 0
    assert encoded.operations > bare.operations and encoded.multiply_adds > bare.multiply_adds


@pytest.mark.slow
def test_a_config_of_the_lab_is_checked_without_torch(path: Path) -> None:
    assert set(LAB) <= set(STAGE_MODELS)
    code = (
        "import sys, corank; config = corank.config.read_config(sys.argv[1], sys.argv[2:]); "
        "print('torch' in sys.modules, *(stage.model for stage in config.stages))"
    )
    models = ["stages.0.model=towers_heads", "stages.0.query=[16, 10]", "stages.0.item=[16, 10]"]
    options = [*models, "stages.1.model=mlp_lab", "stages.1.members=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), *options], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "towers_heads", "mlp_lab"]
