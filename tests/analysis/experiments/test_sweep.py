"""A sweep on a small world: what it compares, that it continues where it ended, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank import SearchResult
from corank.analysis.experiments.space import Grid
from corank.core.errors import ConfigError, DataError
from corank.training.config.config_file import read
from tests.support.command_line import run_corank
from tests.support.html import Read

pytestmark = pytest.mark.slow

GRID: Grid = {"train.rank.lr": [0.001, 0.02], "stages.1.hidden": [[16, 8], [4]]}
BEST = "config.sweep.yaml"


@pytest.fixture(scope="module")
def swept(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep's folder and its document."""
    out = tmp_path_factory.mktemp("swept")
    return out, corank.sweep(config, GRID, out, seeds=2).document


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A document without measured times and its run's path."""
    arms = {name: {k: v for k, v in arm.items() if k != "seconds"} for name, arm in document["arms"].items()}
    return document | {"arms": arms, "run": ""}


def modified(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}


def test_the_document(swept: tuple[Path, dict[str, Any]]) -> None:
    out, document = swept
    assert json.loads((out / "sweep.json").read_text(encoding="utf-8")) == document
    assert document["metric"] == "rank.click.auc"
    assert document["trials"] == len(modified(out)) == 8
    values = [arm["figures"]["rank.click.auc"]["value"] for arm in document["arms"].values()]
    assert values == sorted(values, reverse=True)
    assert document["chosen"] == next(iter(document["arms"]))


def test_the_chosen_arm_is_tested_as_its_run(swept: tuple[Path, dict[str, Any]], config: Path) -> None:
    out, document = swept
    figures = corank.evaluate(out / "run", "test")
    for stage in ("prerank", "rank"):
        test = document["test"][f"{stage}.click.auc"]
        assert test["value"] == figures["stages"][stage]["exposed"]["click"]["auc"]
        assert [test["low"], test["high"]] == figures["interval"]["stages"][stage]["exposed"]["click"]["auc"]
    best = read(config.with_name(BEST))
    changes = document["arms"][document["chosen"]]["changes"]
    if "train.rank.lr" in changes:
        assert best.train.stages["rank"].lr == changes["train.rank.lr"]


def test_the_page(swept: tuple[Path, dict[str, Any]]) -> None:
    out, document = swept
    page = (out / "sweep.html").read_text(encoding="utf-8")
    parsed = Read(page)
    assert parsed.foreign == []
    assert document["verdict"] in parsed.text
    assert page.count("<svg ") == 1
    assert "rank.click.auc" in SearchResult(document).plot()._repr_svg_()  # type: ignore[attr-defined]


def test_a_killed_sweep_ends_the_same(
    swept: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path
) -> None:
    out, document = swept
    killed = shutil.copytree(out, tmp_path / "killed")
    (killed / "sweep.json").unlink()
    gone, torn, *_ = sorted((killed / "trials").iterdir())
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:1000])
    shutil.rmtree(killed / "run" / "model")
    said: list[str] = []
    again = corank.sweep(config, GRID, killed, seeds=2, report=said.append).document
    assert timeless(again) == timeless(document)
    assert sum(line.endswith("read from disk") for line in said) == 6
    assert modified(killed).keys() == modified(out).keys()


def test_what_is_refused(swept: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'rank.click.auk'; did you mean 'rank.click.auc'"):
        corank.sweep(config, GRID, tmp_path / "new", metric="rank.click.auk")
    with pytest.raises(
        ConfigError, match=r"'joint_truth_recall' reads what a choice must not know, the truth"
    ):
        corank.sweep(config, GRID, tmp_path / "new", metric="joint_truth_recall")
    with pytest.raises(ConfigError, match="seeds: must be 1 or more"):
        corank.sweep(config, GRID, tmp_path / "new", seeds=0)
    with pytest.raises(ConfigError, match=r"'ips_click_rate' .* name their column as data.propensity"):
        corank.sweep(config, GRID, tmp_path / "new", metric="ips_click_rate")
    assert not (tmp_path / "new").exists()
    log = pl.read_parquet(config.parent / "log" / "*").with_columns(propensity=pl.lit(None, pl.Float64))
    named = ["name=bucket", "data.propensity=propensity"]
    with pytest.raises(DataError, match=r"ips_click_rate: .* of the split 'valid' has a propensity"):
        corank.sweep(
            config, GRID, tmp_path / "none", overrides=named, metric="ips_click_rate", tables={"log": log}
        )
    few = ["name=few", "data.split={valid: 2026-03-09T23:00:00, test: 2026-03-10}"]
    with pytest.raises(DataError, match=r"rests on at most \d+ requests of the split 'valid', and a verdict"):
        corank.sweep(config, GRID, tmp_path / "none", overrides=few)
    assert not (tmp_path / "none" / "trials").exists()
    with pytest.raises(
        ConfigError, match=r"holds a search of something else: config.train.epochs is 3, .* was 2"
    ):
        corank.sweep(config, GRID, swept[0], overrides=["train.epochs=3"])


def test_the_command(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (config, "--grid", "stages.1.dropout=0.3", "--seeds", 1, "--out", tmp_path)
    code, out, err = run_corank(capsys, "sweep", *options)
    assert code == 0
    assert "Beside the config as written" in out and "stages.1.dropout=0.3" in out
    assert "trial 2/2" in err
    code, out, _ = run_corank(capsys, "sweep", *options, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    code, out, err = run_corank(capsys, "sweep", config)
    assert (code, out) == (1, "")
    assert "write --grid KEY=VALUE,VALUE" in err
