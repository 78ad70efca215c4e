"""Steps of a period: done once, read afterwards, and made anew if what they are made of changed."""

from pathlib import Path

import pytest

from corank.core.errors import DataError
from corank_continual.periods.setup import PeriodSteps


def test_what_was_made_of_another_config_is_removed(tmp_path: Path) -> None:
    steps = PeriodSteps(tmp_path / "2026-04-25")
    steps.begin({"config": "a"})
    steps.do("pack", lambda: {"rows": 1})
    (steps.folder / "packed").mkdir()
    steps.begin({"config": "b"})
    assert not (steps.folder / "packed").exists()
    assert steps.do("pack", lambda: {"rows": 2}) == {"rows": 2}


def test_a_folder_that_lost_its_begin_is_made_anew(tmp_path: Path) -> None:
    steps = PeriodSteps(tmp_path / "2026-04-25")
    (steps.folder / "run").mkdir(parents=True)
    steps.begin({"config": "a"})
    assert [path.name for path in steps.folder.iterdir()] == ["begin.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"seconds": 1.0, "result": []}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    steps = PeriodSteps(tmp_path / "2026-04-25")
    steps.begin({})
    (steps.folder / "pack.json").write_text(content)
    with pytest.raises(DataError, match=r"pack\.json: damaged; remove .*2026-04-25"):
        steps.do("pack", dict)
