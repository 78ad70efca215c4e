"""Experiments on a small world: arms of one's own, and the files that corank comes with."""

import json
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.analysis.experiments.arms_file import STUDY
from tests.support.html import Read

pytestmark = pytest.mark.slow

ARMS = """
title: Is it too wide?
arms:
  half as wide: {change: {scale_widths: 0.5}}
  clicks alone, slowly: {change: clicks_alone, set: {train.rank.lr: 0.0003}}
"""


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """A file of two arms."""
    file = tmp_path / "width.yaml"
    file.write_text(ARMS, encoding="utf-8")
    return file


@pytest.mark.thorough
def test_an_experiment(config: Path, arms: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {
        "out": tmp_path / "out",
        "seeds": 2,
        "rates": (1.0, 3.0),
        "overrides": ["train.epochs=1"],
    }
    result = corank.experiment(config, arms, report=said.append, **options)
    document = result.document
    assert json.loads((tmp_path / "out" / "experiment.json").read_text(encoding="utf-8")) == document
    assert set(document["arms"]) == {"as written", "half as wide", "clicks alone, slowly"}
    assert document["trials"] == 9 == len(list((tmp_path / "out" / "trials").iterdir()))
    for name, arm in document["arms"].items():
        assert arm["rate"] in (1.0, 3.0)
        own = result.row("rank.exposed.click.auc", run=name, base=None, rate=None, split="valid")
        assert len(own["seeds"]) == 2 and own["name"] == "rank.click.auc"
        beside = [row for row in document["rows"] if (row["run"], row["base"]) == (name, "as written")]
        assert bool(beside) == (name != "as written")
        at_rates = {row["rate"] for row in document["rows"] if row["run"] == name} - {None}
        assert at_rates == {1.0, 3.0} and not arm["diverged"]
    assert document["arms"]["half as wide"]["changes"] == {"change": [["scale_widths", [0.5]]]}
    assert Path(document["config_file"]).name == "config.experiment.yaml"
    tested = result.row("rank.exposed.click.auc", split="test")
    assert tested["n"] > 0 and tested["run"] == document["chosen"]
    page = Read((tmp_path / "out" / "experiment.html").read_text(encoding="utf-8"))
    assert document["verdict"] in page.text
    assert set(result.frame()["run"]) == set(document["arms"])
    said.clear()
    again = corank.experiment(config, arms, report=said.append, **options).document
    assert again["rows"] == document["rows"]
    assert sum(line.endswith("read from disk") for line in said) == 9


LITTLE: dict[str, Any] = {
    "seeds": 1,
    "overrides": ["train.epochs=1"],
    "metric": "joint_click_recall",
}


def test_a_file_that_corank_comes_with(config: Path, tmp_path: Path) -> None:
    result = corank.experiment(config, "structures", out=tmp_path / "out", **LITTLE)
    assert result["title"] == "Must the structures agree?"
    assert {"as written", "mlp, then mlp"} <= set(result["arms"])
    known = {row["name"] for row in result["rows"]}
    assert {"joint_truth_recall", "prerank.truth_recall", "prerank.click.auc"} <= known
    assert f": {result['title']}</h1>" in (tmp_path / "out" / "experiment.html").read_text(encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(file.stem for file in STUDY.glob("*.yaml")))
def test_every_file_that_corank_comes_with_is_trained(config: Path, tmp_path: Path, name: str) -> None:
    result = corank.experiment(config, name, out=tmp_path / "out", **LITTLE)
    compared = {
        row["run"] for row in result["rows"] if (row["base"], row["split"]) == ("as written", "valid")
    }
    assert compared == set(result["arms"]) - {"as written"} and compared
    assert not any(arm["diverged"] for arm in result["arms"].values())
