"""The example of a daily funnel and the guide's settings are accepted, and the guide names every setting."""

import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank_continual.periods.history import DailyHistory
from corank_continual.periods.settings import DailySettings, read_settings
from tests.documented.pages import Page
from tests.support.shared import shared

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "daily"
PAGES = [ROOT / "docs" / "operations" / f"daily{language}.md" for language in ("", ".zh-CN")]


def test_the_settings_of_the_example_are_valid() -> None:
    settings = read_settings(EXAMPLE / "daily.yaml")
    assert settings.period == timedelta(days=1) and settings.store == "lmdb:store"
    assert [condition.base for condition in settings.gate] == ["live", "median", None]


def printed_commands() -> list[list[str]]:
    """The first commands of the guide, also those of the example's head."""
    block = Page.read("docs/operations/daily.md").run[0]
    commands = [line.split() for line in block.essence.splitlines()]
    assert commands[-1] == ["corank", "daily", "world/daily.yaml"]
    head = (EXAMPLE / "daily.yaml").read_text(encoding="utf-8")
    assert all(f"#   {' '.join(command)}\n" in head for command in commands)
    return commands


def run_printed(folder: Path) -> None:
    """Run them as in a checkout."""
    (folder / "examples").symlink_to(ROOT / "examples")
    for name, *arguments in printed_commands():
        command = [sys.executable, "-m", "corank"] if name == "corank" else [name]
        subprocess.run([*command, *arguments], cwd=folder, check=True)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return shutil.copytree(shared("daily_example", run_printed) / "world", tmp_path / "world")


@pytest.mark.slow
def test_the_first_commands_of_the_guide_work_as_they_are_printed(world: Path) -> None:
    records = DailyHistory(world / "daily").records
    assert [(r.period, r.decision) for r in records] == [(f"2026-03-0{n}", "live") for n in (3, 4, 5)]


def lose_half(log: pl.DataFrame, truth: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return log.filter(pl.col("time").dt.hour() < 12), truth


def flip(log: pl.DataFrame, truth: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return log.with_columns((1 - pl.col("is_click")).cast(log["is_click"].dtype).alias("is_click")), truth


def poison(log: pl.DataFrame, truth: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Move the clicks to the exposed candidates that are the least likely to be clicked."""
    keys, exposed = ["request_id", "item_id"], pl.col("level") == "exposed"
    likely = log.join(truth, on=keys, how="left", maintain_order="left")["click"]
    worst = pl.when(exposed).then(likely).rank() <= pl.col("is_click").filter(exposed).sum()
    clicks = pl.when(exposed).then(worst).otherwise(pl.col("is_click"))
    return log.with_columns(clicks.cast(log["is_click"].dtype).alias("is_click")), truth


def add_a_fifth(log: pl.DataFrame, truth: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Some requests of the day once more, as others: half as many again as on the days before, as traffic grows."""
    some, other = pl.col("request_id") % 10 < 2, pl.col("request_id") + 10**7
    more, truths = (pl.concat([rows, rows.filter(some).with_columns(other)]) for rows in (log, truth))
    return more.sort("time", maintain_order=True), truths


@pytest.mark.slow
def test_a_poisoned_day_is_refused_as_are_flipped_labels_and_half_a_day_and_a_larger_day_passes(
    world: Path,
) -> None:
    """Clicks on the wrong items are as frequent as right ones, and the candidate learns some: earlier days tell."""
    day, settings = "2026-03-05", world / "daily.yaml"
    files = [world / folder / f"{day}.parquet" for folder in ("log", "truth")]
    tables = [pl.read_parquet(file) for file in files]
    taken_back: dict[str, Any] = {"undo": day, "retry": [day]}
    for change, decision, reason in [
        (lose_half, "refused by validation", "log (was "),
        (flip, "refused by validation", "click (was "),
        (poison, "refused by the gate", "rank.exposed.click.auc >= median - 0.07: 0."),
    ]:
        for file, table in zip(files, change(*tables), strict=True):
            table.write_parquet(file)
        refused = corank.daily(settings, **taken_back).refused
        assert refused is not None and (refused.period, refused.decision) == (day, decision)
        assert any(line.startswith(reason) for line in refused.reasons), refused.reasons
        taken_back = {}
    poisoned, auc = DailyHistory(world / "daily").records[-1], "rank.exposed.click.auc"
    assert poisoned.candidate[auc] > poisoned.reference[auc], "the live run alone does not tell"
    for file, table in zip(files, add_a_fifth(*tables), strict=True):
        table.write_parquet(file)
    assert corank.daily(settings, retry=[day]).refused is None


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_the_guide_has_every_setting_and_its_default_and_an_example_that_is_valid(
    page: Path, tmp_path: Path
) -> None:
    text = page.read_text(encoding="utf-8")
    defaults = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE))
    rows = {name: default.strip() for name, default in defaults.items() if name in DailySettings.model_fields}
    assert list(rows) == list(DailySettings.model_fields)
    for name, field in DailySettings.model_fields.items():
        if isinstance(field.default, (int, str)):
            assert rows[name] == f"`{field.default}`"
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "daily.yaml").write_text(block, encoding="utf-8")
    assert read_settings(tmp_path / "daily.yaml").holdout == timedelta(hours=2)
