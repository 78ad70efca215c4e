"""Mistakes in a config, and what a config says of its log, are reported without torch, which takes seconds to load."""

import subprocess
import sys

import pytest
from torch import nn

from corank.models.settings.network import NAMES_OF_TORCH
from tests.support.configs import refused
from tests.support.shared import simulated_world

SCRIPT = """
import sys
from corank.cli.main import main
sys.argv = ["corank", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    print("ended", ended.code, "torch" in sys.modules)
"""


def run_command(command: str, *overrides: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A command on the simulated world's config, and how it ended: exit status, and whether torch was loaded."""
    arguments = [command, str(simulated_world() / "config.yaml")]
    arguments += [part for override in overrides for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    return done, done.stdout.splitlines()[-1].split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("train", "train.rank.lr=-1", "train.rank.lr: Input should be greater than 0"),
        ("study", "losses.0.kind=clik", "unknown kind 'clik'; did you mean 'click'?"),
    ],
)
def test_a_mistake_is_told_without_torch(command: str, override: str, message: str) -> None:
    done, ended = run_command(command, override)
    assert message in done.stderr
    assert ended == ["ended", "1", "False"]


def test_no_network_takes_a_name_of_torch() -> None:
    modules = nn.ModuleDict()
    assert {name for name in dir(modules) if not name.startswith("_")} <= NAMES_OF_TORCH
    message = refused(simulated_world() / "config.yaml", "stages.0.name=training")
    assert "stages.0.name: 'training' means something else already" in message
