"""Keys of earlier versions: a config that sets one is refused in one line; null, as an old run has it, is read."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import corank
from corank.training.checkpoints.checkpoint import save
from corank.training.config.config_file import plain, read
from corank.training.config.settings import TrainSettings
from corank.training.run import Run
from corank.training.run_file import RUN_FILE
from tests.support.command_line import run_corank
from tests.support.configs import TEXT, refused
from tests.support.interruptions import Interrupting, StoppedError, same
from tests.support.shared import small_world
from tests.support.simulated_runs import trained_run

EASY = "train.skip_easy={by: prerank, on: [ranked]}"
GONE = f"train.skip_easy: {TrainSettings.gone['skip_easy']}"
NULLS = {"skip_easy": None, "gradient_conflict": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize("key", TrainSettings.gone)
def test_a_key_that_went_is_refused_with_what_to_do(path: Path, key: str) -> None:
    for value in ("{}", "{by: prerank, on: [ranked]}", "3"):
        assert refused(path, f"train.{key}={value}") == f"train.{key}: {TrainSettings.gone[key]}"
    before = plain(read(path))
    assert plain(read(path, [f"train.{key}=null"])) == before


@pytest.mark.parametrize("train", ["[]", "3", "null", "{rank: {lr: 0.1}, skip_easy: null}"])
def test_odd_parts_of_a_config_are_left_to_its_other_checks(path: Path, train: str) -> None:
    override = f"train={train}"
    if "lr" in train:
        assert list(read(path, [override]).train.stages) == ["rank"]
    else:
        assert refused(path, override).startswith("train: ")


@pytest.mark.parametrize("command", ["check", "pack", "train", "study"])
def test_each_command_refuses_it(path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, err = run_corank(capsys, command, path, "--set", EASY)
    assert (code, out) == (1, "")
    assert err.splitlines() == [f"error: {path}: {GONE}"]
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("sweep", "--grid", "train.skip_easy={by: prerank, on: [ranked]},null"),
        pytest.param(
            ("tune", "--search", "train.skip_easy.keep=0.1..0.5"), marks=pytest.mark.thorough
        ),  # Optuna
    ],
    ids=["sweep", "tune"],
)
def test_a_search_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str]
) -> None:
    command, *rest = options
    code, out, err = run_corank(
        capsys, command, small_world() / "config.yaml", *rest, "--out", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.endswith(f": {GONE}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_opened_and_resumed(tmp_path: Path) -> None:
    """Its file and its checkpoints name the keys, as null."""
    config, overrides = small_world() / "config.yaml", ["train.requests=24", "train.checkpoint_every=2"]
    whole = trained_run(config, tmp_path / "whole", *overrides)
    with pytest.raises(StoppedError):
        corank.train(config, overrides, folder=tmp_path / "run", callbacks=[Interrupting(1)])
    run = Run(tmp_path / "run", whole.config, whole.base)
    file = run.folder / RUN_FILE
    document = json.loads(file.read_text(encoding="utf-8"))
    document["config"]["train"] |= NULLS
    file.write_text(json.dumps(document), encoding="utf-8")
    latest = run.latest.load()
    latest.facts["config"]["train"] |= NULLS
    save(run.latest.file, latest)
    assert plain(Run.open(run.folder).config) == plain(whole.config)
    resumed = trained_run(config, run.folder, *overrides, resume=True)
    assert same(resumed, whole)
    assert corank.evaluate(resumed.folder).document["requests"] > 0
