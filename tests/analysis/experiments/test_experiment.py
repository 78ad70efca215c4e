"""Arms of one's own on a small world: in an experiment, and as a question of a study."""

import json
from pathlib import Path
from typing import Any

import pytest

import corank
from tests.support.html import Read

pytestmark = pytest.mark.slow

ARMS = """
title: Is it too wide?
metrics: [last_auc]
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


def test_a_question_of_a_study_is_a_file(config: Path, arms: Path, tmp_path: Path) -> None:
    document = corank.study(config, tmp_path / "out", questions=[5, arms], seeds=1, rates=[1.0]).document
    assert list(document["questions"]) == ["5", "width"]
    question = document["questions"]["width"]
    assert question["title"] == "Is it too wide?"
    assert set(question["arms"]) == {"half as wide", "clicks alone, slowly"}
    assert {row["run"] for row in document["rows"] if row["base"]} == set(question["arms"])
    assert len(question["verdict"]) == 2
    assert "width. Is it too wide?</h2>" in (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
