"""Export: settings, versions, sequence numbers, all or nothing, and vectors equal to the model's."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import corank
from corank.bundle.bundle import Bundle
from corank.evaluation.predictions import Calibrators
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.checkpoints.training_state import model_state
from corank.training.model_version import model_version
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same case, made anew elsewhere."""
    return Case.of(tmp_path_factory.mktemp("again"), RICH)


# The model version


def version(case: Case, calibrators: Calibrators | None = None, **changes: Any) -> str:
    config = case.config.model_copy(update=changes)
    weights = model_state(case.model, {})
    return model_version(config, case.packed, weights, calibrators or case.calibrators)


def test_version_is_that_of_weights_encoders_and_schema(case: Case, again: Case) -> None:
    assert version(case) == version(again)
    assert len(version(case)) == 16
    assert version(case, name="other") == version(case)


@pytest.mark.parametrize(
    "name",
    [
        "tables.shared.weights.8",
        "stages.prerank.scale",
        "stages.rank.heads.bias",
    ],
)
def test_version_changes_with_any_weight(case: Case, name: str) -> None:
    parameter = dict(case.model.named_parameters())[name]
    before = version(case)
    with torch.no_grad():
        first = parameter.view(-1)[-1]
        kept = first.clone()
        first.copy_(torch.nextafter(kept, kept + 1))  # by one bit
        assert version(case) != before
        first.copy_(kept)
    assert version(case) == before


def test_version_changes_with_the_schema_and_the_stages(case: Case) -> None:
    features = dict(case.config.features)
    features["item_0"] = features["item_0"].model_copy(update={"pool": "mean"})
    stages = [case.config.stages[0].model_copy(update={"activation": "gelu"}), case.config.stages[1]]
    assert len({version(case), version(case, features=features), version(case, stages=stages)}) == 3


def test_version_changes_with_an_encoder(again: Case) -> None:
    before = version(again)
    path = again.packed.folder / "encoders" / "encoders.json"
    text = path.read_text()
    path.write_text(text.replace('"std": ', '"std": 1', 1))
    assert version(again) != before
    path.write_text(text)
    assert version(again) == before


# Writing over


@pytest.mark.slow
def test_export_over_a_bundle_counts_items_seq_and_keeps_the_content_before(
    trained: Run, trained_bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(trained_bundle, tmp_path / "bundle"))
    first, reader = Bundle.open(path), Funnel.open(path)
    second = corank.export(trained.folder, path).bundle
    assert (first.manifest.items_seq, second.manifest.items_seq) == (1, 2)
    assert first.manifest.model_version == second.manifest.model_version
    assert first.folder != second.folder
    assert Bundle.open(path).folder == second.folder
    # who reads the content before still can
    request = Request.parse({"user": {"id": 1}, "candidates": list(range(9))})
    answer = Funnel.open(path).rank(request)
    assert reader.rank(request)["items"] == answer["items"]
    assert (len(answer["items"]), answer["items_seq"]) == (6, 2)
    assert sorted(p.name for p in path.iterdir()) == sorted(
        [first.folder.name, second.folder.name, "manifest.json"]
    )
