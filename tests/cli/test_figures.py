"""Commands that write figures, too."""

from pathlib import Path

import pytest

from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow
SHORT = ("train.epochs=1", "train.requests=128")


def test_a_study_writes_its_figures(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seeds=1", "--questions=1", "--rates=1", f"--out={tmp_path / 'study'}"]
    options += [f"--figures={tmp_path / 'figures'}", *(f"--set={change}" for change in SHORT)]
    code, _, err = run_corank(capsys, "study", world / "config.yaml", *options)
    assert code == 0, err
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    names = {Path(name).stem for name in drawn}
    assert names and drawn == {f"{name}.{form}" for name in names for form in ("svg", "png")}
