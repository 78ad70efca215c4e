"""Tables fit the terminal: excess columns move to a table of their own, and no word is broken."""

from io import StringIO
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

import corank
from corank.api.config_source import OpenedConfig
from corank.cli import console
from corank.cli.console import fit_table
from tests.support.command_line import run_corank
from tests.support.shared import finished_bundle, simulated_world

NAMES = ["retrieved candidates", "exposed", "known_positives", "published, UTC", "share"]

PROSE = ("recipe: ", "advice: ", "warning: ", "training: ", "memory: ")
"""Prefixes of lines that are sentences, which a terminal wraps."""


def printed(width: int, columns: list[str], rows: list[list[str]], keys: int = 1) -> list[str]:
    table = Table(title="what there is", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column != "retrieved candidates", overflow="fold")
    for row in rows:
        table.add_row(*row)
    screen = Console(file=StringIO(), width=width)
    for part in fit_table(table, screen, keys):
        screen.print(part)
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "keys"), [(36, 1), (45, 1), (45, 2), (60, 1), (60, 2), (80, 1), (200, 2)])
def test_no_word_is_broken_and_each_part_has_the_keys(width: int, keys: int) -> None:
    rows = [[f"prerank.row{n}", f"{n}" * 3, *(f"{n} {m} 2026" for m in range(4))] for n in range(3)]
    lines = printed(width, ["loss", *NAMES], rows, keys)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    for word in ["retrieved", "candidates", *NAMES[1:], *(cell for row in rows for cell in row)]:
        assert word in text, word
    parts = text.count("loss")
    assert text.count("prerank.row2") == parts and text.count("what there is") == 1
    assert (parts == 1) == (width >= 80)


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


def test_what_is_wider_than_the_terminal_is_broken_and_not_cut_off() -> None:
    text = "".join("".join(line.split()) for line in printed(20, ["version", "name"], [["a" * 30, "b" * 30]]))
    assert text.count("a") >= 30 and text.count("b") >= 30
