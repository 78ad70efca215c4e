"""What a training publishes of its working folder, and what it leaves of its checkpoints."""

from pathlib import Path

import torch

from corank.core.artifact import MANIFEST, is_content
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_files import load, save
from corank.training.run import Run
from corank.training.run_publisher import RunPublisher


def test_a_snapshot_has_the_live_content_of_each_checkpoint_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for n in (1, 2):
        save(run / "latest", Checkpoint({"weight": torch.full((3,), n)}, {"epoch": n}))
    (run / "events").mkdir()
    (run / "events" / "log").write_text("begun")
    assert len([path for path in (run / "latest").iterdir() if is_content(path.name)]) == 2
    snapshot = RunPublisher(run, None, print)._take_snapshot()  # type: ignore[arg-type]
    names = {path.name for path in (snapshot / "latest").iterdir()}
    assert len(names) == 2 and MANIFEST in names
    assert load(snapshot / "latest").facts == {"epoch": 2}
    assert (snapshot / "events" / "log").read_text() == "begun"


def test_a_finished_run_has_one_content_of_each_checkpoint(trained: Run) -> None:
    for folder in (trained.checkpoint, *filter(Path.exists, (trained.latest, trained.best))):
        assert len([path for path in folder.iterdir() if is_content(path.name)]) == 1
