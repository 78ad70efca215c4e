"""Tuning under a latency budget: measured latencies, the choice within the budget, and the Pareto frontier."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corank
from corank.analysis.experiments import latency_budget as funnel_latency
from corank.analysis.experiments.latency_budget import median_interval
from corank.core.errors import ConfigError
from corank.testing.worlds import trained_run
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.html import Read
from tests.support.interruptions import same

pytestmark = pytest.mark.slow

PLENTY = 1e6


@pytest.fixture(scope="module", autouse=True)
def short_timing() -> Iterator[None]:
    """Time each funnel by 32 calls, once: what the tests assert of latencies is true of any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(funnel_latency, "ROUNDS", 4)
        patch.setattr(funnel_latency, "TRIES", 1)
        yield


@pytest.fixture(scope="module")
def tuned(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tuning's folder and its document."""
    out = tmp_path_factory.mktemp("tuned")
    return out, corank.tune(config, 3, budget_us=PLENTY, out=out).document


def test_the_interval_of_a_median_holds_it_about_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).exponential(size=(2000, 240))
    intervals = [median_interval(times) for times in drawn]
    coverage = np.mean([one.low <= np.log(2) <= one.high for one in intervals])
    assert 0.94 <= coverage <= 0.98
    assert all(one.low <= one.median <= one.high for one in intervals)


def test_the_frontier(tuned: tuple[Path, dict[str, Any]]) -> None:
    out, document = tuned
    assert document["metric"] == "joint_click_recall"
    frontier = document["budget"]["frontier"]
    us, values = [point["us"]["median"] for point in frontier], [point["value"] for point in frontier]
    assert us == sorted(us)
    assert values == sorted(set(values))
    best = document["trials"][document["best"] - 1]
    assert (best["value"], best["keep"]) == (frontier[-1]["value"], frontier[-1]["quota"])
    page = (out / "tune.html").read_text(encoding="utf-8")
    assert Read(page).foreign == []
    assert "Latency against quality" in page


def test_the_chosen_quota_is_in_the_config(
    tuned: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path
) -> None:
    out, document = tuned
    written = read(Path(document["config_file"]))
    assert written.stages[0].keep == document["changes"]["stages.0.keep"]
    dropped = json.loads((out / "drops.json").read_text(encoding="utf-8"))
    count = document["changes"].get("features.dropped", 0)
    assert set(read(config).features) - set(written.features) == set(dropped[:count])
    assert same(trained_run(Path(document["config_file"]), tmp_path / "run"), Run.open(out / "run"))


def test_a_grid_within_the_budget(config: Path, tmp_path: Path) -> None:
    grid = {"stages.1.hidden": [[4]]}
    document = corank.tune(config, grid=grid, budget_us=PLENTY, out=tmp_path).document
    assert [trial["values"] for trial in document["trials"]] == [None, {"stages.1.hidden": [4]}]
    assert all(trial["us"] and trial["keep"] for trial in document["trials"])
    assert document["budget"]["frontier"]
    assert not (tmp_path / "drops.json").exists()
    with pytest.raises(ConfigError, match="no funnel fits; the cheapest that was measured takes"):
        corank.tune(config, grid=grid, budget_us=1, out=tmp_path)


def test_what_a_budget_refuses(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"--metric rank.click.auc: does not .* what the first stage keeps"):
        corank.tune(config, 3, budget_us=PLENTY, metric="rank.click.auc", out=tmp_path / "new")
    with pytest.raises(ConfigError, match=r"--budget-us: must be above 0; received -1"):
        corank.tune(config, 4, budget_us=-1, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    code, out, err = run_corank(capsys, "tune", config, "--budget-us", "0", "--out", tmp_path / "new")
    assert (code, out) == (1, "")
    assert "must be above 0" in err
