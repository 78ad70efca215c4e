"""Ordinary days of a real log are accepted by the default thresholds."""

import os
from pathlib import Path

import pytest

from corank.api.config_source import OpenedConfig
from corank.training.drift.drift import compare_rows
from corank.training.packed_data import pack_config
from tests.support.command_line import run_corank

SLICE = os.environ.get("CORANK_KUAIRAND")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real") / "kuairand"


@pytest.mark.realdata
@pytest.mark.skipif(SLICE is None, reason="CORANK_KUAIRAND does not name a folder of KuaiRand-Pure")
@pytest.mark.parametrize("day", [27, 30])
def test_an_ordinary_day_is_accepted(day: int, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The 30th is the first day of a holiday: it has 1.4 times the rows of the days before."""
    if not project.exists():
        assert run_corank(capsys, "import", "kuairand", SLICE, project)[0] == 0
    config = project / "config.yaml"
    before = f"data.split={{train: 2022-04-{day - 1}..2022-04-{day}, valid: 2022-04-{day}..}}"
    packed = OpenedConfig.open(config, [before, f"packed=before-{day}"])
    until = "" if day == 30 else f"2022-04-{day + 1}"
    new = OpenedConfig.open(config, [f"data.split={{train: 2022-04-{day}..{until}}}"]).settings
    validation = compare_rows(new, packed.base, pack_config(packed.settings, packed.base), "run")
    assert validation.reasons == []
    assert len(validation.drift) > 30 and "click_history" in validation.drift
