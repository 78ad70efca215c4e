"""The day after the training of `finished_run`, as it is or altered, to be compared with the run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corank.api.config_source import OpenedConfig
from corank.training.drift.drift import compare_rows
from corank.training.drift.encoded_rows import open_packed_of
from corank.training.drift.report import DriftReport
from tests.support.shared import finished_run, simulated_world

Change = Callable[[pl.DataFrame], pl.DataFrame]
DAY = "data.split={train: 2026-03-09..2026-03-10}"


def unchanged(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame."""
    return frame


@dataclass(frozen=True)
class NewDay:
    """The tables of the day, each changed by a function."""

    log: Change = unchanged
    items: Change = unchanged
    users: Change = unchanged
    before: Change | None = None
    """Of the days before, which are a file of their own; they are not there if None."""

    def write(self, folder: Path) -> list[str]:
        """Write the tables into a folder. Returns the changes of the config that read them there."""
        world = simulated_world()
        log = pl.read_parquet(world / "log/*.parquet")
        own = pl.col("time").dt.date().cast(pl.String) == "2026-03-09"
        if self.before is not None:
            self.before(log.filter(pl.col("time") < log.filter(own)["time"].min())).write_parquet(
                folder / "log-1.parquet"
            )
        self.log(log.filter(own)).write_parquet(folder / "log-2.parquet")
        self.items(pl.read_parquet(world / "items.parquet")).write_parquet(folder / "items.parquet")
        self.users(pl.read_parquet(world / "users.parquet")).write_parquet(folder / "users.parquet")
        tables = {"log": "log-*.parquet", "items": "items.parquet", "users": "users.parquet"}
        return [DAY, *(f"data.{name}={folder / file}" for name, file in tables.items())]

    def compare(self, folder: Path, *changes: str) -> DriftReport:
        """Compare the day with the run, under some changes of the config."""
        opened = OpenedConfig.open(simulated_world() / "config.yaml", [*self.write(folder), *changes])
        return compare_rows(opened.settings, opened.base, open_packed_of(finished_run()), "run")
