"""`baseline: true`: a training that ends with boosted trees on the same rows, and what must not come of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import pytest
from safetensors.torch import load_file

import corank
from corank.analysis.comparison_page import describe_trees
from corank.analysis.experiments import tree_baseline
from corank.analysis.experiments.arms import identity
from corank.analysis.experiments.tree_baseline import ENOUGH, SETTINGS, describe_baseline
from corank.api.results import ComparisonResult
from corank.core.settings import validate
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.lists import Lists, write_lists
from corank.evaluation.rows import name_row
from corank.training.config.config_file import read
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow

LINE = "boosted trees on the same rows (test): rank.click.auc "
FEW = ["train.epochs=1", "train.requests=64"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of an imported log, and beside it `runs/lists`, which was trained without trees."""
    folder = tmp_path_factory.mktemp("lists")
    simulate_world(folder / "world", requests=300, candidates=50, users=60, items=400)
    rows = pl.read_parquet(folder / "world/log/*.parquet").filter(level="exposed")
    lists = rows.group_by("user_id", "time", maintain_order=True).agg(shown="item_id", is_click="is_click")
    lists.write_parquet(folder / "lists.parquet")
    columns = {"candidates": "shown", "user": "user_id", "time": "time", "labels": "is_click"}
    write_lists(folder / "lists.parquet", folder / "out", validate(Lists, columns, "import lists"))
    corank.train(folder / "out/config.yaml", [*FEW, "baseline=false"])
    return folder / "out/config.yaml"


def weights(run: Path) -> dict[str, list[float]]:
    """The numbers of a trained model, by tensor."""
    (file,) = run.rglob("model/**/*.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in load_file(file).items()}


def train(config: Path, folder: Path, **options: Any) -> tuple[corank.TrainResult, list[str]]:
    """Train, and return what was said of trees, too."""
    said: list[str] = []
    result = corank.train(config, FEW, folder=folder, report=said.append, **options)
    return result, [line for line in said if "trees" in line and "a small log" not in line]


def test_a_training_of_an_imported_log_ends_with_trees(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [f"--set={change}" for change in FEW]
    code, out, err = run_corank(capsys, "train", imported, f"--run={tmp_path / 'run'}", *changes, "--json")
    assert code == 0
    kept, line, given, *more = err[err.index("kept epoch ") :].splitlines()
    document = json.loads(out)["baseline"]
    assert line.startswith(LINE) and given == describe_trees(document["trees"])
    assert [text.partition(":")[0] for text in more] == ["no verdict"]  # of 60 validation clicks
    more = [given, *more]
    assert describe_baseline(document) == [line, *more]
    compared = corank.compare(tmp_path / "run", "trees")
    for row in document["rows"]:
        values = {key: value for key, value in row.items() if isinstance(value, float)}
        other = compared.row(name_row(row))
        assert {key: other[key] for key in values} == pytest.approx(values), row["metric"]

    assert weights(tmp_path / "run") == weights(imported.parent / "runs/lists")
    assert identity(read(imported)) == identity(read(imported, ["baseline=false"]))
    again = corank.train(imported, FEW, folder=tmp_path / "run", resume=True)
    assert again.baseline is None and again.lines == [kept]
    shown = replace(again, baseline=ComparisonResult(document))
    assert shown.lines == [kept, line, *more] and LINE in shown._repr_html_()
    assert json.loads(shown.to_json())["baseline"] == document
    corank.train(imported, [*FEW, "baseline=false"], folder=tmp_path / "run", resume=True)


def test_without_lightgbm_nothing_is_said(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    result, said = train(imported, tmp_path / "run")
    assert result.baseline is None and not said and len(result.lines) == 1


def test_the_settings_of_the_best_validation_auc_are_taken(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = corank.train(imported, FEW, folder=tmp_path / "run")
    assert result.baseline is not None
    facts = result.baseline.document["trees"]
    assert facts["tried"] == len(SETTINGS) and facts["columns"] > 5
    useless = {"trees": 1, "min_rows": 1_000_000, "lr": 0.011}
    monkeypatch.setattr(tree_baseline, "SETTINGS", [useless, facts["settings"], useless])
    again = tree_baseline.choose_trees(result.run, result.run.packed(), lambda done, total: None)
    assert again.facts["settings"] == facts["settings"]


def test_what_takes_longer_than_a_minute_is_left_to_the_user(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_baseline, "MOST_NUMBERS", 10_000)
    result, said = train(imported, tmp_path / "run")
    assert result.baseline is None and len(said) == 1
    assert said[0].startswith("warning: not compared with boosted trees: ") and said[0].endswith(
        f"`corank compare {tmp_path / 'run'} trees` takes its time"
    )


@pytest.mark.parametrize("error", [RuntimeError("no memory"), KeyboardInterrupt()])
def test_a_run_is_finished_whatever_becomes_of_the_trees(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*given: object, **named: object) -> NoReturn:
        raise error

    monkeypatch.setattr("lightgbm.train", fail)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            train(imported, tmp_path / "run")
    else:
        result, said = train(imported, tmp_path / "run")
        assert result.baseline is None and len(result.lines) == 1
        assert said == ["warning: not compared with boosted trees: RuntimeError: no memory"]
    assert weights(tmp_path / "run") == weights(imported.parent / "runs/lists")


def test_it_says_what_to_look_at_if_trees_are_surely_ahead() -> None:
    facts = {"settings": {"leaves": 7}, "tried": 3, "columns": 9, "left_out": ["user_id"], "judged_by": 200}

    def describe(**figure: object) -> list[str]:
        place = {"stage": "rank", "label": "click", "population": "exposed", "group": "", "metric": "auc"}
        row = place | {"a": 0.7, "b": 0.71, "difference": -0.01} | figure
        rows = [row] if figure else []
        return describe_baseline({"split": "test", "a": "runs/shop", "rows": rows, "trees": facts})

    ahead = describe(low=-0.02, high=-0.001, verdict="worse")
    assert ahead[0] == f"{LINE}0.7000, trees 0.7100: -0.0100 [-0.0200, -0.0010]"
    assert "leaves: 7" in ahead[1] and "user_id" in ahead[1]
    assert len(ahead) == 3 and "`corank check`" in ahead[2] and "`corank compare runs/shop trees`" in ahead[2]
    assert len(describe(low=-0.02, high=0.001, verdict="no difference shown")) == 2
    assert (
        describe(low=None, high=None, verdict="no difference shown")[0]
        == f"{LINE}0.7000, trees 0.7100: -0.0100"
    )
    assert describe() == ["boosted trees on the same rows (test): AUC is not defined there"]
    facts["judged_by"] = ENOUGH - 1
    assert describe(low=-0.02, high=-0.001, verdict="worse")[2].startswith(
        "no verdict: the split 'valid' has 199 "
    )
