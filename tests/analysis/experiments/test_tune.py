"""A tuning on a small world: the same seed gives the same trials, killed or not; some trials are ended early."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import corank
from corank import ExperimentResult
from corank.core.errors import ConfigError, MissingExtraError
from corank.testing.worlds import trained_run
from corank.training.run import Run
from tests.support.html import Read
from tests.support.interruptions import same

pytestmark = pytest.mark.slow

TRIALS = 12
SEED = 2
"""Three of its trials promise little."""


@pytest.fixture(scope="module")
def tuned(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tuning's folder and its document."""
    out = tmp_path_factory.mktemp("tuned")
    return out, corank.tune(config, TRIALS, seed=SEED, out=out).document


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    trials = [
        {key: value for key, value in trial.items() if key != "seconds"} for trial in document["trials"]
    ]
    return document | {"trials": trials, "run": ""}


def test_the_document(tuned: tuple[Path, dict[str, Any]]) -> None:
    out, document = tuned
    assert json.loads((out / "tune.json").read_text(encoding="utf-8")) == document
    trials = document["trials"]
    assert [trial["number"] for trial in trials] == list(range(1, TRIALS + 1))
    complete = {trial["number"]: trial["value"] for trial in trials if trial["value"] is not None}
    assert complete[document["best"]] == max(complete.values())


def test_trials_that_promise_little_are_ended_early(tuned: tuple[Path, dict[str, Any]]) -> None:
    ended = [trial for trial in tuned[1]["trials"] if trial["state"] == "ended early"]
    assert ended
    assert all(1 < len(trial["checks"]) < 4 and trial["value"] is None for trial in ended)
    assert tuned[1]["trials"][0]["state"] == "complete"
    assert len(tuned[1]["trials"][0]["checks"]) == 4


def test_a_killed_tuning_ends_the_same(
    tuned: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path
) -> None:
    out, document = tuned
    killed = shutil.copytree(out, tmp_path / "killed")
    (killed / "tune.json").unlink()
    for path in sorted((killed / "trials").iterdir())[::3]:
        path.unlink()
    said: list[str] = []
    again = corank.tune(config, TRIALS, seed=SEED, out=killed, report=said.append).document
    assert timeless(again) == timeless(document)
    assert sum(line.endswith("read from disk") for line in said) == TRIALS - TRIALS // 3


def test_the_chosen_config_trains_as_it_is(
    tuned: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(tuned[0], tmp_path / "again")
    tuned_again = corank.tune(config, TRIALS, seed=SEED, out=out)
    run = trained_run(Path(tuned_again["config_file"]), tmp_path / "run")
    assert same(run, Run.open(out / "run"))
    test = corank.evaluate(run.folder, "test", bootstrap=False)
    assert (
        test.row("rank.exposed.click.auc")["value"]
        == (tuned_again.row("rank.exposed.click.auc", split="test")["value"])
    )


def test_the_tuning_page(tuned: tuple[Path, dict[str, Any]]) -> None:
    out, document = tuned
    page = (out / "tune.html").read_text(encoding="utf-8")
    parsed = Read(page)
    assert parsed.foreign == []
    assert document["verdict"] in parsed.text
    assert page.count("<svg ") == 2
    assert "mathdefault" not in page, "numbers of a log scale are written as formulas"
    assert document["metric"] in ExperimentResult(document).plot()._repr_svg_()  # type: ignore[attr-defined]


def test_a_trial_that_diverges_costs_no_other(config: Path, tmp_path: Path) -> None:
    document = corank.tune(config, 4, search=["train.table.lr=0.01,1e30"], out=tmp_path).document
    states = [trial["state"] for trial in document["trials"] if trial["values"] == {"train.table.lr": 1e30}]
    assert states
    assert set(states) == {"diverged"}
    assert document["trials"][document["best"] - 1]["state"] == "complete"


def test_what_the_tuning_refuses(tuned: tuple[Path, dict[str, Any]], config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'rank.auc'"):
        corank.tune(config, 3, metric="rank.auc", out=tmp_path / "new")
    with pytest.raises(ConfigError, match="trials: must be 2 or more"):
        corank.tune(config, 1, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    refused: list[dict[str, Any]] = [
        {"seed": 1},
        {"search": ["train.rank.lr=0.1..0.2"]},
        {"overrides": ["train.epochs=3"]},
    ]
    for options in refused:
        with pytest.raises(ConfigError, match="holds a search of something else"):
            corank.tune(config, 3, out=tuned[0], **options)
    with pytest.raises(ConfigError, match="something else: kind is 'grid', there it was 'tune'"):
        corank.tune(config, grid={"train.rank.lr": [0.02]}, out=tuned[0])


def test_without_optuna(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"corank tune needs optuna; .* pip install '\.\[tune\]'"):
        corank.tune(config, 3, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
