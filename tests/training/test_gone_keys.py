"""Keys of earlier versions: gone ones are refused in a line, renamed ones read with a line; runs load as they are."""

import json
from pathlib import Path

import pytest

import corank
from corank.training.checkpoints.checkpoint_files import load, save
from corank.training.config.config_file import plain, read
from corank.training.config.settings import TrainSettings
from corank.training.run import Run
from corank.training.run_file import RUN_FILE
from tests.support.command_line import run_corank
from tests.support.configs import TEXT, refused
from tests.support.interruptions import Interrupting, StoppedError, same
from tests.support.shared import small_world
from tests.support.simulated_runs import trained_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize("key", TrainSettings.gone)
def test_a_key_that_went_is_refused_with_what_to_do(path: Path, key: str) -> None:
    assert (
        refused(path, f"train.{key}={{by: prerank, on: [ranked]}}")
        == f"train.{key}: {TrainSettings.gone[key]}"
    )
    assert plain(read(path, [f"train.{key}=null"])) == plain(read(path))


def test_a_key_that_is_renamed_is_read_with_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = read(path, ["drift.rows=3"])
    path.write_text(TEXT + "validation: {rows: 3}\n", encoding="utf-8")
    said: list[str] = []
    assert read(path, [], [], said.append) == expected and "validation" not in plain(expected)
    assert said == [f"{path}: validation is called drift now; rename it"]
    assert (
        refused(path, "drift.rows=4")
        == "validation: is called drift now, and drift is given, too; drop validation"
    )
    _, _, err = run_corank(capsys, "check", path)
    assert err.splitlines()[0] == said[0]


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_opened_and_resumed(tmp_path: Path) -> None:
    """Its file and its checkpoints have keys that went, as null, one by its earlier name, and lack one."""
    config, overrides = (
        small_world() / "config.yaml",
        ["train.requests=24", "train.checkpoint_every=2", "train.epochs=1"],
    )
    whole = trained_run(config, tmp_path / "whole", *overrides)
    with pytest.raises(StoppedError):
        corank.train(config, overrides, folder=tmp_path / "run", callbacks=[Interrupting(1)])
    run = Run(tmp_path / "run", whole.config, whole.base)
    document, latest = json.loads((run.folder / RUN_FILE).read_text(encoding="utf-8")), load(run.latest)
    for values in (document["config"], latest.facts["config"]):
        values["train"] |= {"skip_easy": None, "gradient_conflict": None}
        values["validation"] = values.pop("drift")
        del values["plugins"]  # a key that it does not know has its default
    (run.folder / RUN_FILE).write_text(json.dumps(document), encoding="utf-8")
    save(run.latest, latest)
    assert plain(Run.open(run.folder).config) == plain(whole.config)
    said: list[str] = []
    resumed = corank.train(config, overrides, folder=run.folder, resume=True, report=said.append).run
    assert same(resumed, whole) and not any("validation is" in line for line in said)
