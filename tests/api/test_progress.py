"""Progress of trainings: how long one will take, said once, after its first steps."""

import re
from pathlib import Path

import pytest

from corank.api.progress import PACED, Pace
from corank.training.callbacks import TrainingLog, TrainingPlan, TrainingStart
from tests.support.boosted_runs import grown_run
from tests.support.command_line import run_corank
from tests.support.shared import small_world

SPAN = r"\S+ \w+"
"""A time and its unit."""


@pytest.mark.thorough
def test_it_is_known_once_and_of_the_steps_that_are_left_to_a_resumed_training() -> None:
    pace = Pace()
    plan = TrainingPlan(epochs=3, batches=100, epochs_done=1, batches_done=40, step=140)
    pace.start(TrainingStart(grown_run(), plan))
    told = [pace.tell(TrainingLog(2, step - 100, 100, step, {}, 1.0)) for step in (160, 179, 180, 200, 300)]
    assert [bool(line) for line in told] == [False, False, True, False, False]
    parts = rf"160 steps at \S+ ms, validation {SPAN}; reading and packing took {SPAN}"
    assert re.fullmatch(f"about {SPAN}: {parts}", told[2])
    assert PACED == 20


@pytest.mark.thorough
def test_train_says_it_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    changes = ("baseline=true", "train.requests=8", "train.epochs=2", f"packed={tmp_path / 'packed'}")
    options = [f"--set={change}" for change in changes]
    code, _, err = run_corank(
        capsys, "train", small_world() / "config.yaml", *options, f"--run={tmp_path / 'run'}"
    )
    assert code == 0, err
    said = rf"training: about {SPAN}: (\d+) steps at \S+ ms, validation {SPAN}, boosted trees {SPAN};"
    steps = re.findall(said, " ".join(err.split()))
    assert len(steps) == 1 and int(steps[0]) % 2 == 0
