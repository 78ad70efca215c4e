"""Callbacks looked up by name: their settings, mistakes, and those of plug-ins."""

from pathlib import Path

import pytest

import corank
from corank.core.errors import ConfigError, CorankError, PluginError
from corank.core.settings import Settings
from corank.training.tracking.mlflow import MlflowCallback
from corank.training.tracking.tracker import CALLBACKS, read_callbacks
from tests.support.command_line import run_corank

COUNTING = """
from pathlib import Path
from corank.core.settings import Settings
from corank.training.callbacks import Callback
from corank.training.tracking.tracker import CALLBACKS

@CALLBACKS.register("counting")
class Counting(Callback, Settings):
    file: Path

    def on_evaluate(self, event):
        with self.file.open("a") as file:
            file.write(f"{event.epoch}\\n")
"""


def test_settings_follow_the_name() -> None:
    (callback,) = read_callbacks(["mlflow,experiment=2024,uri=http://host:5000/a?b=c,wait_s=5"])
    assert callback == MlflowCallback(experiment="2024", uri="http://host:5000/a?b=c", wait_s=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["mlfow"], "unknown callback 'mlfow'; did you mean 'mlflow'?"),
        (["wandb,projekt=a"], "callback wandb: (top level): unknown key 'projekt'; did you mean 'project'?"),
        (["wandb,mode=of"], "callback wandb: mode: Input should be 'online' or 'offline'; received 'of'"),
        (["wandb,project"], "callback wandb: expected KEY=VALUE after each comma; received 'project'"),
        (["wandb", "wandb,mode=offline"], "callback wandb: given 2 times; name each callback once"),
        (["mlflow,wait_s=-1"], "callback mlflow: wait_s: Input should be greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(given: list[str], message: str) -> None:
    with pytest.raises(CorankError) as raised:
        read_callbacks(given)
    assert message in str(raised.value)


def test_what_is_no_callback_with_settings_is_not_registered() -> None:
    class NoCallback(Settings):
        pass

    for part in (NoCallback, corank.Callback, print):
        with pytest.raises(PluginError, match="expected a class derived from Callback and Settings"):
            CALLBACKS.add("other", part)
    assert "other" not in CALLBACKS


@pytest.mark.slow
def test_a_plug_in_of_the_config_is_found(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting_callback.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    config = world / "config.yaml"
    options = ["--set=plugins=[counting_callback]", "--set=train.requests=24", "--set=train.epochs=2"]
    options += [f"--run={tmp_path / 'run'}"]
    code, _, err = run_corank(capsys, "train", config, *options, "--track", "counting")
    assert code == 1 and "callback counting: file: required, but not given" in err
    assert not (tmp_path / "run").exists(), "nothing is begun"
    file = tmp_path / "epochs.txt"
    assert run_corank(capsys, "train", config, *options, "--track", f"counting,file={file}")[0] == 0
    assert file.read_text() == "1\n2\n"


def test_a_callback_by_name_is_checked_before_workers_start(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown callback 'absent'"):
        corank.train(world / "config.yaml", track=["absent"], workers=2, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
