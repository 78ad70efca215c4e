"""What a run predicted once is kept in its folder, and gives the same figures to the bit without its model."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corank
from corank.analysis.run_evaluation import predict_run
from corank.datasets.feed.simulate import simulate_world
from corank.evaluation import predict
from corank.evaluation.predictions import Predictions
from corank.evaluation.rows import named_values
from corank.testing.worlds import NARROW, make_world, trained_run
from corank.training.model_version import model_version
from corank.training.run import PREDICTIONS, Run
from tests.support.shared import copy_run, finished_run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run that keeps no predictions."""
    run = copy_run(finished_run(), tmp_path / "run")
    shutil.rmtree(run.folder / PREDICTIONS, ignore_errors=True)
    return run


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are predicted by a model, in turn."""
    splits: list[str] = []
    real = predict.predict_split

    def counted(model: Any, packed: Any, split: str, *args: Any, **options: Any) -> Predictions:
        splits.append(split)
        return real(model, packed, split, *args, **options)

    monkeypatch.setattr(predict, "predict_split", counted)
    return splits


def require_equal(one: Any, other: Any) -> None:
    """Raise unless values are of one type and equal to the bit, with all that they hold."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert [*one] == [*other]
        for name, value in one.items():
            require_equal(value, other[name])
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif one is not None:
        require_equal(vars(one), vars(other))


def test_kept_predictions_are_those_of_the_model(tmp_path: Path, predicted: list[str]) -> None:
    """A log with all that predictions may hold: weights, columns of log and items, and chances of exposure."""
    simulate_world(tmp_path, requests=200, candidates=20, users=40, items=80, auction=True, random=0.2)
    config = tmp_path / "config.yaml"
    text = config.read_text().replace("columns: [bid] ", "columns: [bid, price]\n  weight: bid ")
    for wide, narrow in NARROW.items():
        text = text.replace(wide, narrow)
    config.write_text(text)
    run = trained_run(config, tmp_path / "run", "train.epochs=1")
    of_model, kept = (predict_run(run, "train").predictions for _ in range(2))
    assert predicted == ["train"]
    assert {*kept.columns} == {"bid", "price"} and kept.propensity is not None and kept.weight.std() > 0
    for one in fields(Predictions):
        require_equal(getattr(kept, one.name), getattr(of_model, one.name))


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
import corank
from corank.training.tracking.tracker import CALLBACKS, Tracker

@CALLBACKS.register("printed")
class Printed(Tracker):
    module = "json"
    open_run = lambda self, *_: {}
    write_figures = write_file = close_run = lambda self, *_: None
    write_facts = lambda self, facts: print(json.dumps(facts))

print(corank.evaluate(sys.argv[1]).to_json())
print(corank.compare(sys.argv[1], sys.argv[2]).to_json())
print(corank.track(sys.argv[1], ["printed"]).read_text(), end="")  # the report
"""


def test_commands_after_evaluate_predict_nothing_and_need_no_torch(
    run: Run, predicted: list[str], tmp_path: Path
) -> None:
    """A report needs none once a funnel of its shape was timed on this machine, and trackers take the same figures."""
    first = corank.evaluate(run.folder)
    assert predicted == ["test"]
    again, by_day = corank.evaluate(run.folder), corank.evaluate(run.folder, by="day")
    other = copy_run(run, tmp_path / "other")
    compared = corank.compare(run.folder, other.folder)
    page = corank.report(run.folder).html
    assert predicted == ["test"]
    assert again.to_json() == first.to_json()
    shutil.rmtree(run.folder / PREDICTIONS)
    assert corank.evaluate(run.folder, by="day").to_json() == by_day.to_json()
    shutil.rmtree(run.folder / PREDICTIONS)
    assert corank.compare(run.folder, other.folder).to_json() == compared.to_json()
    assert predicted == ["test"] * 3
    figure = first.row("rank.exposed.click.auc")["value"]
    assert compared.row("rank.exposed.click.auc")["a"] == figure
    assert f"{figure:.4f}" in page

    packed = run.packed()
    version = model_version(run.config, packed, run.trained(packed), run.described(packed)[1])
    figures = {f"test/{name}": value for name, value in named_values(first["rows"]).items()}
    tracked = json.dumps({"model_version": version} | figures)
    arguments = [sys.executable, "-c", WITHOUT_TORCH, str(run.folder), str(other.folder)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert printed == "\n".join([first.to_json(), compared.to_json(), tracked, page])


@pytest.mark.parametrize("damage", ["altered", "cut short", "longer", "empty", "a folder"])
def test_what_is_damaged_is_predicted_again(run: Run, predicted: list[str], damage: str) -> None:
    whole, file = corank.evaluate(run.folder, bootstrap=False), run.folder / PREDICTIONS / "test"
    content = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        damaged = {"altered": flipped, "cut short": content[:-4], "longer": content + b"0000", "empty": b""}
        file.write_bytes(damaged[damage])
    assert corank.evaluate(run.folder, bootstrap=False).to_json() == whole.to_json()
    assert predicted == ["test"] * 2
    assert damage == "a folder" or file.read_bytes() == content


def test_a_folder_that_cannot_be_written_keeps_nothing(run: Run, predicted: list[str]) -> None:
    (run.folder / PREDICTIONS).touch()
    first, second = (corank.evaluate(run.folder, bootstrap=False) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert predicted == ["test"] * 2


def test_predictions_of_other_weights_are_not_taken(tmp_path: Path, predicted: list[str]) -> None:
    """A new training removes what was kept; what a slower command puts back then is of no use to it."""
    config = make_world(tmp_path, requests=200, candidates=20, changes={"epochs: 2": "epochs: 1"})
    run = trained_run(config, tmp_path / "run")
    first = corank.evaluate(run.folder, bootstrap=False)
    left = (run.folder / PREDICTIONS / "test").read_bytes()
    trained_run(config, tmp_path / "run", "train.seed=1", overwrite=True)
    assert not (run.folder / PREDICTIONS).exists()
    (run.folder / PREDICTIONS).mkdir()
    (run.folder / PREDICTIONS / "test").write_bytes(left)
    second = corank.evaluate(run.folder, bootstrap=False)
    assert second["rows"] != first["rows"] and predicted == ["test"] * 2
