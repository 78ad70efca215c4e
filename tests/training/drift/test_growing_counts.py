"""A column that counts events grows with the log: the first days of a world are accepted, a fault of it is not."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corank.api.config_source import OpenedConfig
from corank.data.packing.pack import pack_log
from corank.datasets.feed.simulate import simulate_world
from corank.training.drift.drift import compare_rows
from corank.training.drift.report import DriftReport

pytestmark = pytest.mark.slow

FIRST = "data.split={train: ..2026-03-02T20:00, valid: 2026-03-02T20:00..2026-03-03}"
NEXT = "data.split={train: 2026-03-03..2026-03-04}"


def third_day(world: Path) -> DriftReport:
    """The third day of a world, compared with the two before, as `corank daily` does."""
    config = world / "config.yaml"
    first, then = (OpenedConfig.open(config, [split]) for split in (FIRST, NEXT))
    packed = pack_log(first.settings.data, first.settings.declared, first.base, world / "packed")
    return compare_rows(then.settings, then.base, packed, "run")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 1},
        {"seed": 2, "drift": {"lifetime": 5}},
        {"users": 100},
    ],
    ids=str,
)
def test_the_third_day_of_a_simulated_world_is_accepted(tmp_path: Path, options: dict[str, Any]) -> None:
    sizes = {"requests": 3000, "candidates": 40, "users": 500, "items": 400, "days": 3}
    simulate_world(tmp_path / "world", **(sizes | options))
    report = third_day(tmp_path / "world")
    assert report.refusals == [] and report.drift["category_clicks"] > 0


def test_a_count_of_another_unit_is_refused_and_the_message_names_the_way_to_leave_it_out(
    tmp_path: Path,
) -> None:
    sizes: dict[str, Any] = {"requests": 1500, "candidates": 20, "users": 200, "items": 200, "days": 3}
    simulate_world(tmp_path / "world", drift={"lifetime": 5}, **sizes)
    path = tmp_path / "world" / "log" / "2026-03-03.parquet"
    assert third_day(tmp_path / "world").refusals == []
    rows = pl.read_parquet(path)
    rows.with_columns(pl.col("category_clicks") * 10 + 3).write_parquet(path)
    (line,) = third_day(tmp_path / "world").refusals
    assert line.startswith("category_clicks (PSI ") and "name it in drift.unjudged" in line
