"""Commands killed at changes of folders: what they were to replace can be used, and the next one goes on."""

from pathlib import Path

import pytest

import corank
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import exists
from corank.training.run import Run
from tests.support.kills import count_changes, kill_at
from tests.support.shared import copy_run, finished_run


def begin_anew(folder: Path) -> None:
    opened = Run.open(folder)
    Run.create(folder, opened.config, opened.base)


@pytest.mark.slow
def test_a_run_can_be_resumed_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    trained = finished_run()
    changes = count_changes(begin_anew, copy_run(trained, tmp_path / "counted").folder)
    for change in range(1, changes + 1):
        copy = copy_run(trained, tmp_path / f"run{change}")
        kill_at(change, begin_anew, copy.folder)
        assert copy.finished or not exists(copy.latest) or load(copy.best), change
        assert Run.open(copy.folder).config == trained.config
    config = trained.base / "config.yaml"
    for change in (2, changes // 2):  # the model is gone; then the training state, too
        again = corank.train(config, resume=True, folder=tmp_path / f"run{change}").run
        assert again.finished
