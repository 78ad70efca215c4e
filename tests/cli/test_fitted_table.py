"""Tables fit the terminal: excess columns move to a table of their own, and no word is broken."""

from pathlib import Path

import pytest

import corank
from corank.api.config_source import OpenedConfig
from corank.cli import console
from tests.support.command_line import run_corank
from tests.support.shared import finished_bundle, simulated_world

PROSE = ("recipe: ", "advice: ", "warning: ", "training: ", "memory: ")
"""Prefixes of lines that are sentences, which a terminal wraps."""


def test_the_commands_break_no_word_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    opened = OpenedConfig.open(simulated_world() / "config.yaml").settings
    code, out, _ = run_corank(capsys, "check", simulated_world() / "config.yaml")
    assert code == 0
    tables = [line for line in out.splitlines() if not line.startswith(PROSE)]
    assert max(map(len, tables)) <= 80
    losses = {f"{loss.stage}.{loss.kind}" for loss in opened.losses if hasattr(loss, "stage")}
    words = {*opened.declared.features, *losses, "positives", "candidates", "known", "missing", "values"}
    assert {word for word in words if word not in out.replace("\n", " ").split()} == set()
    store = f"lmdb:{tmp_path / 'store'}"
    versions = [corank.publish(finished_bundle(), store).version]
    code, out, _ = run_corank(capsys, "store", "ls", store)
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert {*versions, "published,", "newer", opened.name} <= {*out.split()}
