"""Rows of some hours of the day are compared with those of the same hours, as far as there are any."""

from pathlib import Path

import numpy as np
import polars as pl

import corank
from corank.api.config_source import OpenedConfig
from corank.data.packed.dataset import PackedDataset
from corank.training.drift.drift import compare_rows
from corank.training.drift.encoded_rows import EncodedRows, number_hours
from tests.support.new_days import NewDay
from tests.support.shared import shared, simulated_world

CONFIG = "config.yaml"


def rows(hours: list[int]) -> EncodedRows:
    numbers = np.arange(len(hours), dtype=np.int32)
    return EncodedRows({"x": numbers}, np.array(hours, dtype=np.int32), numbers, numbers, numbers)


def packed_evening() -> PackedDataset:
    """Packed data of one evening."""

    def pack(folder: Path) -> None:
        split = "data.split={train: 2026-03-08T18:00..2026-03-08T23:00, valid: 2026-03-08T23:00..2026-03-09}"
        corank.pack(simulated_world() / CONFIG, [split, f"packed={folder / 'packed'}"])

    return PackedDataset.open(shared("evening", pack) / "packed")


def test_hours_are_numbered_by_the_day() -> None:
    assert number_hours(np.array([0, 3_599_999, 3_600_000, 25 * 3_600_000])).tolist() == [0, 0, 1, 1]


def test_candidates_of_other_hours_are_left_out() -> None:
    morning, day = rows([6, 7, 7]), rows([5, 6, 7, 8])
    assert morning.shares_hours(day) and day.shares_hours(morning)
    assert day.in_hours_of(morning).hours.tolist() == [6, 7]
    kept = day.in_hours_of(morning).encoded["x"]
    assert isinstance(kept, np.ndarray) and kept.tolist() == [1, 2]
    assert not day.shares_hours(rows([5]))


def test_some_hours_are_like_the_same_hours_of_earlier_days(tmp_path: Path) -> None:
    validation = NewDay().compare(tmp_path, "data.split={train: 2026-03-09T12:00..2026-03-09T20:00}")
    assert validation.reasons == []
    log = pl.read_parquet(simulated_world() / "log/*.parquet")
    hours = log.filter(pl.col("time").dt.hour().is_between(12, 19)).group_by(pl.col("time").dt.date()).len()
    days = hours.filter(pl.col("time").cast(pl.String).is_between(pl.lit("2026-03-02"), pl.lit("2026-03-08")))
    assert (
        next(figure for figure in validation.figures if figure.kind == "rows").reference
        == days["len"].median()
    )


def test_features_of_the_context_are_not_judged_by_other_hours() -> None:
    change = "data.split={train: 2026-03-09T06:00..2026-03-09T11:00}"
    opened = OpenedConfig.open(simulated_world() / CONFIG, [change, "drift.min_count=1"])
    validation = compare_rows(opened.settings, opened.base, packed_evening(), "run")
    verdicts = {figure.name: figure.verdict for figure in validation.figures if figure.kind == "psi"}
    assert verdicts["hour"] == "few" and verdicts["price"] != "few"
    assert (
        validation.figures[[figure.kind for figure in validation.figures].index("rows")].threshold == 1.6**3
    )


def test_a_threshold_of_rows_that_is_given_holds_for_other_hours() -> None:
    change = "data.split={train: 2026-03-09T06:00..2026-03-09T11:00}"
    opened = OpenedConfig.open(simulated_world() / CONFIG, [change, "drift.rows=1.6"])
    validation = compare_rows(opened.settings, opened.base, packed_evening(), "run")
    assert next(figure for figure in validation.figures if figure.kind == "rows").threshold == 1.6
