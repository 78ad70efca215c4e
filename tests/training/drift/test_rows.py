"""The number of rows is compared with that of the same hours of earlier days, and of earlier packings."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from corank.api.config_source import OpenedConfig
from corank.core.time import DAY, moment_to_ms
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.pack import pack_log
from corank.training.drift.drift import compare_rows
from corank.training.drift.figure import DriftFigure
from corank_continual.periods.settings import Period
from tests.support.new_days import Change, NewDay
from tests.support.shared import shared, simulated_world


def test_some_hours_are_like_the_same_hours_of_earlier_days(tmp_path: Path) -> None:
    validation = NewDay().compare(tmp_path, "data.split={train: 2026-03-09T12:00..2026-03-09T20:00}")
    assert validation.refusals == []
    log = pl.read_parquet(simulated_world() / "log/*.parquet")
    hours = log.filter(pl.col("time").dt.hour().is_between(12, 19)).group_by(pl.col("time").dt.date()).len()
    days = hours.filter(pl.col("time").cast(pl.String).is_between(pl.lit("2026-03-02"), pl.lit("2026-03-08")))
    assert (
        next(figure for figure in validation.figures if figure.kind == "rows").reference
        == days["len"].median()
    )


HOUR = timedelta(hours=1)


def pack_days(folder: Path) -> None:
    """Pack as `corank daily` does: all until 6 March, then two days, each without the last four hours of its own."""
    packed: PackedDataset | None = None
    since: int | None = None
    for day in ("2026-03-06", "2026-03-07", "2026-03-08"):
        period = Period.at(moment_to_ms(day), DAY, "UTC")
        parts = ", ".join(f'{name}: "{bounds}"' for name, bounds in period.split(since, 4 * HOUR).items())
        opened = OpenedConfig.open(simulated_world() / "config.yaml", [f"data.split={{{parts}}}"])
        data, features = opened.settings.data, opened.settings.declared
        earlier = None if packed is None else EarlierPack.of(packed)
        packed = pack_log(data, features, opened.base, folder / day, earlier=earlier)
        since = period.end - 4 * 3_600_000


def rows_of(given: NewDay, folder: Path, *changes: str) -> DriftFigure:
    """The figure of the number of rows of 9 March."""
    packed = PackedDataset.open(shared("packed_days", pack_days) / "2026-03-08")
    opened = OpenedConfig.open(simulated_world() / "config.yaml", [*given.write(folder), *changes])
    validation = compare_rows(opened.settings, opened.base, packed, "run")
    return next(figure for figure in validation.figures if figure.kind == "rows")


def times(factor: float) -> Change:
    """`factor` times the requests; added ones repeat others under new keys."""

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        number = pl.col("request_id").rank("dense")
        some = frame.filter(number <= (factor % 1) * frame["request_id"].n_unique())
        again = some.with_columns(pl.col("request_id") + frame["request_id"].max() + 1)
        return pl.concat([frame, again]) if factor > 1 else some

    return change


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "ok"), (0.5, "broken"), (1.9, "broken")])
def test_a_day_of_usual_size_is_accepted_and_half_a_day_refused(
    factor: float, verdict: str, tmp_path: Path
) -> None:
    figure = rows_of(NewDay(log=times(factor)), tmp_path)
    log = pl.read_parquet(simulated_world() / "log/*.parquet")
    days = log.group_by(day=pl.col("time").dt.date().cast(pl.String)).len()
    week = days.filter(pl.col("day").is_between(pl.lit("2026-03-02"), pl.lit("2026-03-08")))
    assert figure.reference == week["len"].median() and figure.threshold == 1.6
    assert figure.verdict == verdict
