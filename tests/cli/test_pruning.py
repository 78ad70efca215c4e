"""`corank pack --prune` as a user runs it, on this machine and with packed data at a URL."""

from pathlib import Path

import pytest

from corank.testing.worlds import make_world
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config of a small world."""
    return make_world(tmp_path / "world", requests=40, items=60)


def test_what_was_tried_is_removed(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ([], ["--without", "tab"], ["--set", "features.hour=null"]):
        assert run_corank(capsys, "pack", config, *options)[0] == 0
    (sets,) = config.parent.glob("packed/*/sets")
    assert len(list(sets.iterdir())) == 2
    code, out, err = run_corank(capsys, "pack", config, "--prune", "--without", "tab")
    assert (code, out) == (0, "")
    assert "removed 1 of 2 other sets of features: " in err
    assert len(list(sets.iterdir())) == 1
    (last,) = sets.iterdir()
    monkeypatch.chdir(config.parent)
    code, _, err = run_corank(capsys, "pack", config.name, "--prune")
    assert code == 0 and f"removed {last.relative_to(config.parent)}: " in err
    assert "removed 1 of 1 other sets of features: " in err
    assert not list(sets.iterdir())
