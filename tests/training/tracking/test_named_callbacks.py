"""Callbacks looked up by name: their settings, mistakes, and those of plug-ins."""

from pathlib import Path

import pytest

from corank.core.errors import CorankError
from corank.training.tracking.mlflow import MlflowCallback
from corank.training.tracking.tracker import read_callbacks
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
        (["wandb,project"], "callback wandb: expected KEY=VALUE after each comma; received 'project'"),
    ],
)
def test_mistakes_are_named(given: list[str], message: str) -> None:
    with pytest.raises(CorankError) as raised:
        read_callbacks(given)
    assert message in str(raised.value)


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
