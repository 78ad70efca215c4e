"""Mistakes in a config's data and features are told before torch is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from corank.core.errors import CorankError
from corank.training.config import Config
from corank.training.config_file import read
from corank.training.plain_config.config_head import LATER, ConfigHead, check_head
from tests.support.shared import simulated_world

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from corank.cli.main import main
sys.argv = ["corank", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
MISTAKES = {
    "dat={}": "unknown key 'dat'; did you mean 'data'?",
    "stage=[]": "unknown key 'stage'; did you mean 'stages'?",
    "data.split.valid=soon": "data.split.valid: expected a day or a time",
    "data.labels.click.colum=x": "unknown key 'colum'; did you mean 'column'?",
    "features.tab.kind=idd": "unknown kind 'idd'",
    "features.history.of=absent": "features.history.of: must name an item id feature",
    "features.history.event=absent": "features.history.event: no label 'absent'",
    "features.9.kind": "--set features.9.kind: expected a.b=value",
}


@pytest.mark.parametrize("command", ["check", "pack", "train", "study"])
def test_a_mistake_is_told_without_torch(command: str) -> None:
    arguments = [command, simulated_world() / "config.yaml", "--set", "features.tab.kind=idd"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert "unknown kind 'idd'" in done.stderr
    assert done.stdout.split() == ["1", "False"]


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_the_head_says_what_the_whole_config_says(override: str, message: str) -> None:
    path = simulated_world() / "config.yaml"
    said = []
    for check in (lambda: check_head(path, [override]), lambda: read(path, [override])):
        with pytest.raises(CorankError) as caught:
            check()
        said.append(str(caught.value))
    assert message in said[0]
    assert said[0] == said[1]


def test_every_key_is_known() -> None:
    assert [*ConfigHead.model_fields, *LATER] == list(Config.model_fields)


def test_a_mistake_in_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: [")
    with pytest.raises(CorankError, match=r"config\.yaml"):
        check_head(tmp_path / "config.yaml")
