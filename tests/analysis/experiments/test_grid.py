"""A grid on a small world: what it compares, that it continues where it ended, and what it refuses."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import corank
from corank.analysis.experiments.space import Grid
from corank.core.errors import ConfigError, DataError
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow

GRID: Grid = {"train.rank.lr": [0.001, 0.02], "stages.1.hidden": [[16, 8], [4]]}
"""Its first combination is the config as written."""


@pytest.fixture(scope="module", autouse=True)
def _without_optuna() -> Any:
    """A grid needs none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        yield


@pytest.fixture(scope="module")
def searched(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A grid's folder and its document."""
    out = tmp_path_factory.mktemp("searched")
    return out, corank.tune(config, grid=GRID, out=out).document


def modified(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}


def test_every_combination_is_compared_with_the_config_as_written(
    searched: tuple[Path, dict[str, Any]],
) -> None:
    out, document = searched
    assert json.loads((out / "tune.json").read_text(encoding="utf-8")) == document
    assert document["metric"] == "rank.click.auc"
    written, *trials = document["trials"]
    assert [list(trial["values"].values()) for trial in document["trials"]] == [
        [0.001, [16, 8]],
        [0.001, [4]],
        [0.02, [16, 8]],
        [0.02, [4]],
    ]
    assert {trial["state"] for trial in document["trials"]} == {"complete"}
    assert len(modified(out)) == 4
    chosen_by = (document["metric"], "as written")
    beside = {row["run"]: row for row in document["rows"] if (row["name"], row["base"]) == chosen_by}
    assert [*beside] == [f"trial {trial['number']}" for trial in trials]
    for trial, found in zip(trials, beside.values(), strict=True):
        assert found["value"] == pytest.approx(trial["value"] - written["value"])
        assert found["low"] <= found["value"] <= found["high"]
    assert document["trials"][document["best"] - 1]["value"] == max(
        one["value"] for one in document["trials"]
    )


def test_a_grid_may_get_values_and_another_metric(
    searched: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(searched[0], tmp_path / "more")
    less: Grid = {"train.rank.lr": [0.02], "stages.1.hidden": [[4], [16, 8]]}
    document = corank.tune(config, grid=less, out=out, metric="prerank.click.auc").document
    assert len(document["trials"]) == 3
    assert modified(out) == modified(searched[0])


def test_what_is_refused(searched: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **options: Any) -> None:
        asked: dict[str, Any] = {"grid": GRID, "out": tmp_path / "new"} | options
        with pytest.raises(kind, match=message):
            corank.tune(config, **asked)

    refused(ConfigError, r"unknown metric 'rank.click.auk'; did you mean", metric="rank.click.auk")
    refused(
        ConfigError,
        r"'joint_truth_recall' reads what a choice must not know, the truth",
        metric="joint_truth_recall",
    )
    refused(ConfigError, r"'ips_click_rate' .* name their column as data.propensity", metric="ips_click_rate")
    others = {"trials": 5, "seed": 1, "search": ["train.rank.lr=0.1,1"]}
    for name, value in others.items():
        refused(ConfigError, f"--{name}: not with --grid", **{name: value})
    assert not (tmp_path / "new").exists()
    log = pl.read_parquet(config.parent / "log" / "*").with_columns(propensity=pl.lit(None, pl.Float64))
    named = ["name=bucket", "data.propensity=propensity"]
    refused(
        DataError,
        r"ips_click_rate: .* of the split 'valid' has a propensity",
        overrides=named,
        metric="ips_click_rate",
        tables={"log": log},
    )
    few = ["name=few", "data.split={valid: 2026-03-09T23:00:00, test: 2026-03-10}"]
    refused(DataError, r"rests on at most \d+ requests of the split 'valid', and a verdict", overrides=few)
    assert not (tmp_path / "new" / "trials").exists()
    refused(
        ConfigError,
        r"holds a search of something else: config.train.epochs is 3, .* was 2",
        overrides=["train.epochs=3"],
        out=searched[0],
    )


def test_the_command(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"stages.1.dropout": [0.3]}), encoding="utf-8")
    options = (config, "--grid", file, "--out", tmp_path / "out")
    code, out, err = run_corank(capsys, "tune", *options)
    assert code == 0
    assert "The best trials" in out and "stages.1.dropout=0.3" in out
    assert "trial 2/2" in err
    assert re.search(r"0\.\d{4} +[+−-]0\.\d{4} .* 0\.3 ", out)
    code, out, _ = run_corank(capsys, "tune", *options, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / "tune.json").read_text(encoding="utf-8"))
    file.write_text("- 1\n", encoding="utf-8")
    code, out, err = run_corank(capsys, "tune", *options)
    assert (code, out) == (1, "")
    assert "grid.yaml: expected keys with lists of values" in err
