"""Arms of the benchmark `daily`: how a funnel is kept up to date, a day at a time, and what it scores the day after.

A day is served by what was made of the days before it. All arms serve the day's items, as a service does that takes
new items by the minute, and all see the user's events until the request.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import polars as pl

import corank


@dataclass(frozen=True)
class DailyLog:
    """A log by days, of which a day's files are put into a folder when the day is over."""

    source: Path
    """With `log/DATE.parquet`, config.yaml and other tables; items in one file, or in a file a day."""
    live: Path
    """A folder of the data available so far."""
    days: list[date]
    keys: list[str]
    item: str
    events: list[str]
    """Columns of labels that histories are made of."""

    def open(self) -> None:
        """Begin a folder without a log."""
        (self.live / "log").mkdir(parents=True)
        for path in self.source.glob("*.*"):
            shutil.copy(path, self.live)
        if (self.source / "items").is_dir():
            (self.live / "items").mkdir()

    def add(self, day: date) -> None:
        """Put the log of a day into the folder."""
        shutil.copy(self.source / "log" / f"{day}.parquet", self.live / "log")

    def add_items(self, day: date) -> None:
        """Put the items that are published until the end of a day into the folder."""
        for path in (self.source / "items").glob("*.parquet"):
            if path.stem <= str(day):
                shutil.copy(path, self.live / "items")

    @property
    def items(self) -> str:
        """The files of the items available so far."""
        return str(self.live / ("items/*.parquet" if (self.live / "items").is_dir() else "items.parquet"))

    def read(self, day: date) -> pl.DataFrame:
        """The log of a day."""
        return pl.read_parquet(self.source / "log" / f"{day}.parquet")

    def files_before(self, day: date) -> list[str]:
        """The files of the log of the days before."""
        return [str(self.live / "log" / f"{earlier}.parquet") for earlier in self.days if earlier < day]

    def refresh(self, bundle: Path, until: date) -> None:
        """Refresh a bundle: the items available so far, and rates and ages of the beginning of a day."""
        users = str(self.live / "users.parquet")
        corank.refresh(bundle, self.files_before(until), self.items, users, until=str(until))

    def served(self, day: date) -> pl.DataFrame:
        """The log that a service has when it serves a day: its requests, and the events of the days before."""
        past = [self.read(earlier) for earlier in self.days if earlier < day]
        happened = pl.any_horizontal(pl.col(self.events) == 1)
        return pl.concat([*(log.filter(happened) for log in past), self.read(day)])

    def score(self, bundle: Path, day: date, work: Path) -> pl.DataFrame:
        """Logits of both stages for each candidate of a day, in the order of the log: `prerank` and `rank`."""
        shutil.rmtree(work, ignore_errors=True)
        users = str(self.live / "users.parquet")
        # rows of the days before are events of histories, and are not looked at
        corank.predict(bundle, self.served(day), work, users, as_served=True)
        scores = pl.read_parquet(work / "*.parquet").select(
            *self.keys, self.item, prerank="logit.prerank.click", rank="logit.rank.click"
        )
        rows = self.read(day).join(scores, on=[*self.keys, self.item], how="left", maintain_order="left")
        # an item that a bundle does not know is ranked below all others
        return rows.select(pl.col("prerank", "rank").fill_null(-100.0))


@dataclass
class Spent:
    """Seconds of a day, by the wall clock and of CPUs."""

    wall: float = 0.0
    cpu: float = 0.0
    _began: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> "Spent":
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]


class Arm(Protocol):
    """A way to keep a funnel up to date."""

    def update(self, log: DailyLog, today: date, spent: Spent) -> Path:
        """Make what serves a day from the days before it. Returns a bundle."""


@dataclass
class Trained:
    """A run a day: on all days so far, or on the last few; from scratch, or from the run of the day before."""

    work: Path
    seed: int
    set: Sequence[str] = ()
    window: int | None = None
    continued: bool = False
    earlier: Path | None = None

    def update(self, log: DailyLog, today: date, spent: Spent) -> Path:
        """Pack and train. The export is the same work for all and is not counted."""
        first = None if self.window is None else today - timedelta(days=self.window)
        options = [
            *self.set,
            f"train.seed={self.seed}",
            f"packed={self.work / ('packed' if self.continued else f'packed-{today}')}",
            # a continued run trains only on rows after those of earlier runs, whatever the split: those are history
            f"data.split={{train: {first or ''}..{today}}}",
        ]
        if self.window is not None:
            options.append(f"data.log={log.files_before(today)[-self.window :]}")
        run, source = self.work / f"run-{today}", self.earlier if self.continued else None
        with spent:
            corank.pack(log.live / "config.yaml", options, continue_from=source)
            corank.train(log.live / "config.yaml", options, folder=run, continue_from=source)
        self.earlier = run
        bundle = self.work / "bundle"
        corank.export(run, bundle, until=str(today))
        return bundle


@dataclass
class Frozen:
    """The first run for ever: as it is, or with its rates, ages and records refreshed every day."""

    first: Path
    bundle: Path
    trained_until: date
    refreshed: bool

    def update(self, log: DailyLog, today: date, spent: Spent) -> Path:
        """Bring new items into the bundle; with `refreshed` the rates of the day before, too."""
        if not self.bundle.exists():
            corank.export(self.first, self.bundle, until=str(self.trained_until))
        with spent:
            log.refresh(self.bundle, today if self.refreshed else self.trained_until)
        return self.bundle
