"""Mistakes in a config, and what a config says of its log, are reported without torch, which takes seconds to load."""

import json
import subprocess
import sys

import pytest
from torch import nn

from corank.losses.base import LOSSES
from corank.models.settings.network import NAMES_OF_TORCH
from corank.models.settings.stage import STAGE_MODELS
from corank.training.config.config_file import read
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
NETWORKS = ["prerank", "rank"]
EVERY_PART = {
    "data.labels.later": {"column": "is_click", "known": "everywhere"},
    "data.scores": {"production": {"column": "score_rank"}},
    "stages": [
        {"name": "prerank", "model": "towers", "keep": 9},
        {"name": "rank", "model": "mlp", "keep": 6},
        {"name": "boosted", "model": "trees", "keep": 5},
    ],
    "stages.1.dcn": {"layers": 1},
    "stages.1.din": {"history": "history"},
    "stages.1.from_stages": ["prerank.score"],
    "teachers": [{"name": "teacher", "scores": ["production"], "hidden": [8]}],
    "losses": [
        {"kind": "click", "stage": "rank"},
        {"kind": "click", "stage": "teacher"},
        {"kind": "unexposed", "stage": "prerank", "from": ["batch"], "per_request": 2},
        {"kind": "in_batch", "stage": "prerank"},
        {"kind": "distill", "teacher": "teacher", "student": "prerank", "on": ["ranked"]},
        {"kind": "levels", "stage": "prerank", "form": "ranknet"},
        {"kind": "listwise", "stage": "rank"},
        {"kind": "pairwise", "stage": "rank"},
        {"kind": "cascade", "form": "lcron", "positive": ["exposed"], "stages": NETWORKS},
        {"kind": "info_nce", "stage": "prerank"},
        {"kind": "outcome", "stage": "prerank", "of": "later"},
    ],
    "train.table": {"optimiser": "lazy_adam", "lr": 0.01},
    "train.rank": {"optimiser": "adam", "lr": 0.01},
    "export.precision": {"prerank.vector": "fp16"},
}


def run_command(command: str, *overrides: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A command on the simulated world's config, and how it ended: exit status, and whether torch was loaded."""
    arguments = [command, str(simulated_world() / "config.yaml")]
    arguments += [part for override in overrides for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    return done, done.stdout.splitlines()[-1].split()


@pytest.mark.slow
def test_the_built_in_parts_are_checked_without_torch() -> None:
    overrides = [f"{key}={json.dumps(value)}" for key, value in EVERY_PART.items()]
    config = read(simulated_world() / "config.yaml", overrides)
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("corank.")}
    assert {loss.kind for loss in config.losses} == own
    own = {name for name in STAGE_MODELS if STAGE_MODELS[name].__module__.startswith("corank.")}
    assert {stage.model for stage in config.stages} == own
    done, ended = run_command("check", *overrides)
    assert done.stderr == ""
    assert ended == ["ended", "0", "False"]


def test_no_network_takes_a_name_of_torch() -> None:
    modules = nn.ModuleDict()
    assert {name for name in dir(modules) if not name.startswith("_")} <= NAMES_OF_TORCH
    message = refused(simulated_world() / "config.yaml", "stages.0.name=training")
    assert "stages.0.name: 'training' means something else; take another name" in message
