"""A daily funnel whose config has shares and `auto`: the periods split the log, and the first plans its training."""

import json
from pathlib import Path

import pytest

import corank
from corank.features.split import RangeSplit
from corank.training.run import Run
from tests.support.daily_world import write_daily_world


@pytest.mark.slow
def test_periods_split_the_log_and_the_first_plans_its_training(tmp_path: Path) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 900, drifts=False)
    # half of it validates: a shorter one holds too few clicks to stop the first period by
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"holdout": "20h"}))
    config = settings.parent / "config.yaml"
    values = json.loads(config.read_text())
    values["data"]["split"] = {"valid": 0.1, "test": 0.1}
    values["train"] |= {"epochs": "auto", "requests": 128}
    config.write_text(json.dumps(values))
    result = corank.daily(settings)
    assert result.refused is None
    runs = [Run.open(folder / "run") for folder in sorted((settings.parent / "daily" / "periods").iterdir())]
    assert all(isinstance(run.config.data.split, RangeSplit) for run in runs)
    first, *later = (run.config.train for run in runs)
    assert first.epochs == 20 and first.early_stop is not None
    assert [train.epochs for train in later] == [1]  # by the `changes` of the settings
